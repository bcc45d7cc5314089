// What emulation_init.py has as code for arm64. A test assembles this and compares.
// Linux gives a program its number of arguments, its arguments, a zero, and its environment on the stack.

        adr     x0, type
        adr     x1, table
        mov     x2, x0
        mov     x3, 0
        mov     x4, 0
        mov     x8, 40                  // mount(type, table, type, 0, 0)
        svc     0

        mov     x0, 17
        mov     x1, 0
        mov     x8, 220                 // clone(SIGCHLD, 0)
        svc     0
        cbnz    x0, parent

        ldr     x0, [sp, 16]
        add     x1, sp, 16
        ldr     x2, [sp]
        add     x2, x1, x2, lsl 3
        mov     x8, 221                 // execve(argv[1], argv + 1, environment)
        svc     0
        mov     x0, 127
        mov     x8, 93                  // exit(127)
        svc     0

parent: mov     x1, 0
        mov     x2, 0
        mov     x3, 0
        mov     x8, 260                 // wait4(child, 0, 0, 0)
        svc     0

wait:   mov     x0, 0
        mov     x1, 0
        mov     x2, 0
        mov     x3, 0
        mov     x8, 73                  // ppoll(0, 0, 0, 0)
        svc     0
        b       wait

type:   .asciz  "binfmt_misc"
table:  .asciz  "/proc/sys/fs/binfmt_misc"
