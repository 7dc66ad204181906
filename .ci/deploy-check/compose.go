package main

import (
	"context"
	"log"

	"github.com/compose-spec/compose-go/v2/cli"
)

// Loads the file as Docker Compose does: that validates it against the schema and checks what it refers to.
func checkCompose(path string) {
	options, err := cli.NewProjectOptions([]string{path})
	must(path, err)
	project, err := options.LoadProject(context.Background())
	must(path, err)
	service, err := project.GetService("cameo")
	must(path, err)
	if !service.ReadOnly {
		log.Fatalf("%s: the root of the container can be written to", path)
	}
	say("%d services of Compose", len(project.Services))
}
