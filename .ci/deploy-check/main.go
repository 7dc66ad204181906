// Checks the files of deploy/ against the schemas of the programs that read them, and against the server: what they
// name must exist. `.ci/deploy` runs it.
//
//   - kubernetes.go: the manifests, against the types of the Kubernetes API.
//   - dockerfile.go: the Dockerfile, with the parser of Docker.
//   - compose.go: the Compose file, against the schema of its specification.
//   - settings.go: the variables that the deployments set, against docs/settings.md.
//   - envoy.go: the configuration of Envoy, against its protos.
//   - queries.go: alerts and dashboard, against a scrape.
//   - alerts.go: alerts, against docs/operations.md.
//
// Arguments: the root of the repository, a scrape of /metrics in Prometheus' format, and the output of `cameo
// descriptor`.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: check ROOT SCRAPE DESCRIPTOR")
	}
	root, scrape, descriptor := os.Args[1], os.Args[2], os.Args[3]
	deploy := filepath.Join(root, "deploy")

	checkKubernetes(filepath.Join(deploy, "kubernetes"))
	checkDockerfile(filepath.Join(deploy, "Dockerfile"))
	checkCompose(filepath.Join(deploy, "compose.yaml"))
	checkSettings(filepath.Join(root, "docs/settings.md"),
		filepath.Join(deploy, "systemd/cameo.service"),
		filepath.Join(deploy, "compose.yaml"),
		filepath.Join(deploy, "kubernetes/statefulset.yaml"),
	)
	checkEnvoy(filepath.Join(deploy, "envoy/envoy.yaml"), descriptor)
	alerts := readAlerts(filepath.Join(deploy, "prometheus/cameo.rules.yaml"))
	checkDocumented(alerts, filepath.Join(root, "docs/operations.md"))
	checkTested(alerts, filepath.Join(deploy, "prometheus"))
	checkQueries(alerts, filepath.Join(deploy, "grafana/cameo.json"), newVocabulary(scrape, descriptor))
}

func read(path string) []byte {
	text, err := os.ReadFile(path)
	must(path, err)
	return text
}

func must(what string, err error) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func say(format string, arguments ...any) {
	fmt.Printf(format+"\n", arguments...)
}
