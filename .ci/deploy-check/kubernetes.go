package main

import (
	"errors"
	"log"
	"path/filepath"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// The manifests, each of one object. A kind that is not here is a mistake, or needs a line.
func checkKubernetes(folder string) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	must(folder, err)
	var set apps.StatefulSet
	var service core.Service
	var budget policy.PodDisruptionBudget
	var network networking.NetworkPolicy
	into := map[meta.TypeMeta]any{
		{APIVersion: "apps/v1", Kind: "StatefulSet"}:                &set,
		{APIVersion: "v1", Kind: "Service"}:                         &service,
		{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"}:      &budget,
		{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}: &network,
	}
	for _, path := range paths {
		decode(path, into)
	}
	for kind := range into {
		log.Fatalf("%s: no %s", folder, kind.Kind)
	}
	checkSelectors(&set, &service, &budget, &network)
	checkPorts(&set, &service, &network)
	say("%d manifests of Kubernetes", len(paths))
}

func decode(path string, into map[meta.TypeMeta]any) {
	var kind meta.TypeMeta
	text := read(path)
	must(path, yaml.Unmarshal(text, &kind))
	object, known := into[kind]
	if !known {
		log.Fatalf("%s: the kind %s of %s is unknown, or there twice", path, kind.Kind, kind.APIVersion)
	}
	// Unknown and repeated fields are errors. This decoder heeds the case of names, as the API server does.
	text, err := yaml.YAMLToJSONStrict(text)
	must(path, err)
	strict, err := json.UnmarshalStrict(text, object)
	must(path, errors.Join(append(strict, err)...))
	delete(into, kind)
}

// Everything must select the pods of the StatefulSet. A selector that selects nothing is valid, and does nothing.
func checkSelectors(
	set *apps.StatefulSet, service *core.Service, budget *policy.PodDisruptionBudget, network *networking.NetworkPolicy,
) {
	pod := labels.Set(set.Spec.Template.Labels)
	selectors := map[string]*meta.LabelSelector{
		"StatefulSet":         set.Spec.Selector,
		"Service":             {MatchLabels: service.Spec.Selector},
		"PodDisruptionBudget": budget.Spec.Selector,
		"NetworkPolicy":       &network.Spec.PodSelector,
	}
	for name, selector := range selectors {
		compiled, err := meta.LabelSelectorAsSelector(selector)
		must(name, err)
		if compiled.Empty() || !compiled.Matches(pod) {
			log.Fatalf("%s: the selector %q does not select the pod", name, compiled)
		}
	}
	if set.Spec.ServiceName != service.Name {
		log.Fatalf("the StatefulSet names the service %q, which is %q", set.Spec.ServiceName, service.Name)
	}
}

// Ports and volumes are named in one place and used in another.
func checkPorts(set *apps.StatefulSet, service *core.Service, network *networking.NetworkPolicy) {
	container := set.Spec.Template.Spec.Containers[0]
	names := map[string]bool{}
	for _, port := range container.Ports {
		names[port.Name] = true
	}
	used := []string{}
	for _, port := range service.Spec.Ports {
		used = append(used, port.TargetPort.StrVal)
	}
	for _, rule := range network.Spec.Ingress {
		for _, port := range rule.Ports {
			used = append(used, port.Port.StrVal)
		}
	}
	for _, probe := range []*core.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
		used = append(used, probe.HTTPGet.Port.StrVal)
	}
	for _, name := range used {
		if !names[name] {
			log.Fatalf("the container has no port %q", name)
		}
	}
	checkVolumes(set)
}

func checkVolumes(set *apps.StatefulSet) {
	volumes := map[string]bool{}
	for _, volume := range set.Spec.Template.Spec.Volumes {
		volumes[volume.Name] = true
	}
	for _, claim := range set.Spec.VolumeClaimTemplates {
		volumes[claim.Name] = true
	}
	for _, mount := range set.Spec.Template.Spec.Containers[0].VolumeMounts {
		if !volumes[mount.Name] {
			log.Fatalf("the pod has no volume %q", mount.Name)
		}
	}
}
