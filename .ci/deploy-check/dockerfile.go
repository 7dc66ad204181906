package main

import (
	"bytes"
	"log"
	"regexp"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Parses the file as `docker build` does, with the warnings of `docker build --check` as errors.
func checkDockerfile(path string) {
	parsed, err := parser.Parse(bytes.NewReader(read(path)))
	must(path, err)
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, _ []parser.Range) {
		log.Fatalf("%s: %s: %s", path, rule, message)
	}})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	must(path, err)

	// Kubernetes can tell that a user is not root only if it is a number.
	user := ""
	for _, command := range stages[len(stages)-1].Commands {
		switch command := command.(type) {
		case *instructions.UserCommand:
			user = command.User
		case *instructions.CopyCommand:
			if _, known := instructions.HasStage(stages, command.From); !known {
				log.Fatalf("%s: no stage %q to copy from", path, command.From)
			}
		}
	}
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		log.Fatalf("%s: the image runs as %q, which is not a number other than 0", path, user)
	}
	say("%d stages of the Dockerfile", len(stages))
}
