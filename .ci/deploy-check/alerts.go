package main

import (
	"log"
	"maps"
	"path/filepath"
	"regexp"
	"slices"

	"sigs.k8s.io/yaml"
)

type alert struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func readAlerts(path string) []alert {
	var rules struct {
		Groups []struct {
			Name  string  `json:"name"`
			Rules []alert `json:"rules"`
		} `json:"groups"`
	}
	must(path, yaml.UnmarshalStrict(read(path), &rules))
	var alerts []alert
	for _, group := range rules.Groups {
		alerts = append(alerts, group.Rules...)
	}
	for _, alert := range alerts {
		severity := alert.Labels["severity"]
		if severity != "critical" && severity != "warning" || alert.Annotations["summary"] == "" {
			log.Fatalf("%s: %s has no severity or no summary", path, alert.Alert)
		}
	}
	return alerts
}

// docs/operations.md has a row for each alert, and no others.
func checkDocumented(alerts []alert, document string) {
	compare(alerts, document, regexp.MustCompile("(?m)^\\| `(Cameo\\w+)` \\|"), read(document))
	say("%d alerts, each documented", len(alerts))
}

// The tests expect each alert to fire.
func checkTested(alerts []alert, folder string) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.test.yaml"))
	must(folder, err)
	var tests []byte
	for _, path := range paths {
		tests = append(tests, read(path)...)
	}
	compare(alerts, folder, regexp.MustCompile(`alertname: (\w+)\n\s+exp_alerts:\n\s+- exp_labels`), tests)
}

// Compares the names that the pattern finds with those of the alerts.
func compare(alerts []alert, where string, pattern *regexp.Regexp, text []byte) {
	found, expected := map[string]bool{}, map[string]bool{}
	for _, row := range pattern.FindAllSubmatch(text, -1) {
		found[string(row[1])] = true
	}
	for _, alert := range alerts {
		expected[alert.Alert] = true
	}
	if !maps.Equal(found, expected) {
		log.Fatalf("%s has %q, and the rules are %q", where, sorted(found), sorted(expected))
	}
}

func sorted(names map[string]bool) []string {
	return slices.Sorted(maps.Keys(names))
}
