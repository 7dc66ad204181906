// Reads /metrics with Prometheus' own parser, in both formats, checks the names with its linter, and parses the alerts
// of docs/operations.md. Arguments: the file in Prometheus' format, the file in OpenMetrics, and the document.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"regexp"
	"strings"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql/parser"
)

func read(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return text
}

// The number of samples.
func parse(text []byte, contentType string) int {
	parser, err := textparse.New(text, contentType, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for samples := 0; ; {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return samples
		}
		if err != nil {
			log.Fatalf("%s: %v", contentType, err)
		}
		if entry == textparse.EntrySeries {
			samples++
		}
	}
}

func lint(text []byte) {
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		log.Fatal(err)
	}
	for _, problem := range problems {
		fmt.Printf("%s: %s\n", problem.Metric, problem.Text)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

// The number of alerts. They stand in the last cell of each row of a metric, in backticks, and are expressions unless
// they name a flag or a setting.
func alerts(document string) int {
	found := 0
	for _, row := range regexp.MustCompile(`(?m)^\| .cameo_.* \| (.*) \|$`).FindAllStringSubmatch(document, -1) {
		before := found
		for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			if strings.HasPrefix(code[1], "--") {
				continue
			}
			expression := strings.ReplaceAll(code[1], `\|`, "|")
			if _, err := parser.NewParser(parser.Options{}).ParseExpr(expression); err != nil {
				log.Fatalf("%s: %v", expression, err)
			}
			found++
		}
		if found == before {
			log.Fatalf("no alert in %s", row[0])
		}
	}
	return found
}

func main() {
	text, open := read(os.Args[1]), read(os.Args[2])
	lint(text)
	samples, same := parse(text, "text/plain"), parse(open, "application/openmetrics-text; version=1.0.0; charset=utf-8")
	if samples == 0 || samples != same {
		log.Fatalf("%d samples in Prometheus' format, and %d in OpenMetrics", samples, same)
	}
	fmt.Printf("%d samples in both formats, and %d alerts\n", samples, alerts(string(read(os.Args[3]))))
}
