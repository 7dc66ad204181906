package main

import (
	"log"
	"slices"
	"strings"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	cors "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	transcoder "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_json_transcoder/v3"
	grpcweb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	manager "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"
)

// What a `typed_config` may hold. Naming a type makes it known to protojson.
type extension interface {
	proto.Message
	ValidateAll() error
}

var _ = []extension{
	&cors.Cors{}, &cors.CorsPolicy{}, &transcoder.GrpcJsonTranscoder{}, &grpcweb.GrpcWeb{}, &router.Router{},
	&manager.HttpConnectionManager{}, &tls.DownstreamTlsContext{}, &tls.UpstreamTlsContext{},
	&upstream.HttpProtocolOptions{},
}

// The configuration must have no unknown field and meet the rules of Envoy's protos, in every extension too.
func checkEnvoy(path, descriptor string) {
	json, err := yaml.YAMLToJSONStrict(read(path))
	must(path, err)
	var config bootstrap.Bootstrap
	must(path, protojson.Unmarshal(json, &config))
	must(path, config.ValidateAll())

	var transcoded []string
	must(path, protorange.Range(config.ProtoReflect(), func(values protopath.Values) error {
		message, isMessage := values.Index(-1).Value.Interface().(protoreflect.Message)
		if !isMessage {
			return nil
		}
		any, isAny := message.Interface().(*anypb.Any)
		if !isAny {
			return nil
		}
		inner, err := any.UnmarshalNew()
		if err != nil {
			return err
		}
		if filter, is := inner.(*transcoder.GrpcJsonTranscoder); is {
			transcoded = filter.Services
		}
		return inner.(extension).ValidateAll()
	}))
	checkServices(transcoded, descriptor)
}

// The transcoder must name every service of the API.
func checkServices(transcoded []string, descriptor string) {
	var expected []string
	for _, file := range readDescriptor(descriptor).File {
		for _, service := range file.Service {
			expected = append(expected, file.GetPackage()+"."+service.GetName())
		}
	}
	slices.Sort(expected)
	slices.Sort(transcoded)
	if !slices.Equal(expected, transcoded) {
		log.Fatalf("Envoy transcodes %s, and the API has %s", strings.Join(transcoded, ", "), strings.Join(expected, ", "))
	}
	say("%d services in the configuration of Envoy", len(transcoded))
}

func readDescriptor(path string) *descriptorpb.FileDescriptorSet {
	var files descriptorpb.FileDescriptorSet
	must(path, proto.Unmarshal(read(path), &files))
	return &files
}
