package main

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql/parser"
)

// Metrics that others than Cameo make, and the labels that Prometheus adds.
var foreign = map[string]bool{"up": true, "probe_success": true}
var added = []string{"job", "instance"}

// What a query may name: metrics, their labels, and the values that a scrape shows.
type vocabulary struct {
	values  map[string]map[string]map[string]bool
	reasons map[string]bool
}

func newVocabulary(scrape, descriptor string) vocabulary {
	known := vocabulary{map[string]map[string]map[string]bool{}, map[string]bool{}}
	series, err := textparse.New(read(scrape), "text/plain", labels.NewSymbolTable(), textparse.ParserOptions{})
	must(scrape, err)
	for {
		entry, err := series.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(scrape, err)
		if entry == textparse.EntrySeries {
			var sample labels.Labels
			series.Labels(&sample)
			known.add(sample)
		}
	}
	for _, file := range readDescriptor(descriptor).File {
		for _, enum := range file.EnumType {
			for _, value := range enum.Value {
				if reason, is := strings.CutPrefix(value.GetName(), "ERROR_REASON_"); is {
					known.reasons[reason] = true
				}
			}
		}
	}
	return known
}

func (known vocabulary) add(sample labels.Labels) {
	name := sample.Get(labels.MetricName)
	if known.values[name] == nil {
		known.values[name] = map[string]map[string]bool{}
	}
	sample.Range(func(label labels.Label) {
		if known.values[name][label.Name] == nil {
			known.values[name][label.Name] = map[string]bool{}
		}
		known.values[name][label.Name][label.Value] = true
	})
}

// Calls have a series only for what has happened, so their reasons are those of the API, and their codes are not checked.
func (known vocabulary) has(metric, label, value string) bool {
	switch {
	case strings.HasPrefix(metric, "cameo_calls_total") && label == "reason":
		return value == "" || known.reasons[value]
	case label == "code" || label == "workspace" || slices.Contains(added, label):
		return true
	default:
		return known.values[metric][label][value]
	}
}

func (known vocabulary) check(where, query string) {
	expression, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	must(where+": "+query, err)
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		if selector, is := node.(*parser.VectorSelector); is {
			known.checkSelector(where, selector)
		}
		if sum, is := node.(*parser.AggregateExpr); is {
			known.checkGrouping(where, sum)
		}
		return nil
	})
}

func (known vocabulary) checkSelector(where string, selector *parser.VectorSelector) {
	if foreign[selector.Name] {
		return
	}
	if known.values[selector.Name] == nil {
		log.Fatalf("%s: no metric %q", where, selector.Name)
	}
	for _, matcher := range selector.LabelMatchers {
		known.checkLabel(where, selector.Name, matcher.Name)
		if strings.HasPrefix(matcher.Value, "$") || strings.ContainsAny(matcher.Value, ".*+") {
			continue
		}
		for _, value := range strings.Split(matcher.Value, "|") {
			if !known.has(selector.Name, matcher.Name, value) {
				log.Fatalf("%s: %s has no %s %q", where, selector.Name, matcher.Name, value)
			}
		}
	}
}

func (known vocabulary) checkLabel(where, metric, label string) {
	if known.values[metric][label] == nil && !slices.Contains(added, label) {
		log.Fatalf("%s: %s has no label %q", where, metric, label)
	}
}

// What `by` names must be a label of some metric below it.
func (known vocabulary) checkGrouping(where string, sum *parser.AggregateExpr) {
	parser.Inspect(sum.Expr, func(node parser.Node, _ []parser.Node) error {
		if selector, is := node.(*parser.VectorSelector); is && !foreign[selector.Name] {
			for _, label := range sum.Grouping {
				known.checkLabel(where, selector.Name, label)
			}
		}
		return nil
	})
}

type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct{ H, W, X, Y int }
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

func checkQueries(alerts []alert, dashboard string, known vocabulary) {
	for _, alert := range alerts {
		known.check(alert.Alert, alert.Expr)
	}
	var board struct {
		Panels []panel `json:"panels"`
	}
	must(dashboard, json.Unmarshal(read(dashboard), &board))
	ids, queries := map[int]bool{}, 0
	for _, panel := range board.Panels {
		if ids[panel.ID] || panel.Title == "" || panel.GridPos.X+panel.GridPos.W > 24 {
			log.Fatalf("%s: the panel %q has no title, another's id, or does not fit", dashboard, panel.Title)
		}
		ids[panel.ID] = true
		if (panel.Type == "row") != (len(panel.Targets) == 0) {
			log.Fatalf("%s: the panel %q has no query, or is a row with one", dashboard, panel.Title)
		}
		for _, target := range panel.Targets {
			known.check(panel.Title, withoutVariables(target.Expr))
			queries++
		}
	}
	say("%d panels with %d queries, and %d alerts: all that they name is scraped", len(board.Panels), queries, len(alerts))
}

// Grafana puts durations for its own variables.
func withoutVariables(query string) string {
	return regexp.MustCompile(`\$__\w+`).ReplaceAllString(query, "5m")
}
