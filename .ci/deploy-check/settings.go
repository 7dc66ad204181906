package main

import (
	"log"
	"regexp"
	"strings"
)

// What every deployment sets: without them nobody knows who did what, and one client can take the server for itself.
var required = []string{
	"CAMEO_AUDIT_LOG",
	"CAMEO_MAX_CALL_RATE_PER_CLIENT",
	"CAMEO_MAX_WRITES_PER_CLIENT",
	"CAMEO_MAX_IMPORT_RATE_PER_CLIENT",
}

// The server warns of a variable that it does not know, and goes on without it.
func checkSettings(settings string, deployments ...string) {
	documented := string(read(settings))
	variable := regexp.MustCompile(`CAMEO_[A-Z_]+`)
	for _, path := range deployments {
		text := string(read(path))
		for _, name := range variable.FindAllString(text, -1) {
			if !strings.Contains(documented, "`"+name+"`") {
				log.Fatalf("%s: %s is not a setting", path, name)
			}
		}
		for _, name := range required {
			if !strings.Contains(text, name) {
				log.Fatalf("%s does not set %s", path, name)
			}
		}
	}
	say("%d deployments with their settings", len(deployments))
}
