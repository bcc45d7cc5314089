# What emulation_init.py has as code for amd64. A test assembles this and compares.
# Linux gives a program its number of arguments, its arguments, a zero, and its environment on the stack.
        .intel_syntax noprefix

        lea     rdi, [rip + type]
        lea     rsi, [rip + table]
        mov     rdx, rdi
        xor     r10d, r10d
        xor     r8d, r8d
        mov     eax, 165                # mount(type, table, type, 0, 0)
        syscall

        mov     eax, 57                 # fork()
        syscall
        test    eax, eax
        jnz     parent

        mov     rdi, [rsp + 16]
        lea     rsi, [rsp + 16]
        mov     rax, [rsp]
        lea     rdx, [rsp + rax * 8 + 16]
        mov     eax, 59                 # execve(argv[1], argv + 1, environment)
        syscall
        mov     edi, 127
        mov     eax, 60                 # exit(127)
        syscall

parent: mov     edi, eax
        xor     esi, esi
        xor     edx, edx
        xor     r10d, r10d
        mov     eax, 61                 # wait4(child, 0, 0, 0)
        syscall

wait:   mov     eax, 34                 # pause()
        syscall
        jmp     wait

type:   .asciz  "binfmt_misc"
table:  .asciz  "/proc/sys/fs/binfmt_misc"
