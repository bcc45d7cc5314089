// Which images BuildKit itself asks for when it converts a Dockerfile. One JSON object a line in, one out.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

type question struct {
	Text, Target, Build string
	Args                map[string]string
}

type answer struct {
	Images [][2]string `json:"images"`
	Error  string      `json:"error"`
}

// resolver answers for every image, and notes which ones it was asked for.
type resolver struct {
	mutex sync.Mutex
	seen  map[[2]string]bool
}

const config = `{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]}}`

func (r *resolver) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.seen[[2]string{ref, platforms.Format(*opt.ImageOpt.Platform)}] = true
	return ref, digest.FromString(ref), []byte(config), nil
}

func ask(q question) answer {
	r := &resolver{seen: map[[2]string]bool{}}
	target, build := platforms.MustParse(q.Target), platforms.MustParse(q.Build)
	caps := pb.Caps.CapSet(pb.Caps.All())
	_, err := dockerfile2llb.Dockerfile2LLB(context.Background(), []byte(q.Text), dockerfile2llb.ConvertOpt{
		Config:         dockerui.Config{BuildArgs: q.Args, BuildPlatforms: []ocispecs.Platform{build}},
		TargetPlatform: &target,
		MetaResolver:   r,
		LLBCaps:        &caps,
		AllStages:      true,
	})
	a := answer{Images: [][2]string{}}
	for image := range r.seen {
		a.Images = append(a.Images, image)
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			panic(err)
		}
		if err := out.Encode(ask(q)); err != nil {
			panic(err)
		}
	}
}
