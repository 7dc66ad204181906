// Walks through the API with grpc-go, as clients/conformance/README.md says, with gzip in both directions.
//
//	walk <address> <workspace>
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	cameov1 "cameo.dev/walk/gen/cameo/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip" // The import alone makes the client accept gzip.
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	marky  = 9080350317581165000
	buyers = 9007199254740993 // The first number that a double cannot hold.
)

var bio = strings.Repeat("cameo ", 8000)

type walk struct {
	context    context.Context
	workspace  string
	profiles   cameov1.ProfileServiceClient
	events     cameov1.EventServiceClient
	identities cameov1.IdentityServiceClient
	audiences  cameov1.AudienceServiceClient
	etag       string // Of the profile when it was created.
}

func main() {
	conn, err := grpc.NewClient(os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	check(err)
	defer conn.Close()
	deadline, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	w := &walk{
		context:    deadline,
		workspace:  os.Args[2],
		profiles:   cameov1.NewProfileServiceClient(conn),
		events:     cameov1.NewEventServiceClient(conn),
		identities: cameov1.NewIdentityServiceClient(conn),
		audiences:  cameov1.NewAudienceServiceClient(conn),
	}
	w.create()
	w.get()
	w.update()
	w.retry()
	w.importRecords()
	w.batch()
	w.list()
	cursor := w.subscribe()
	w.resume(cursor)
	w.history()
	w.live()
	w.identify()
	w.merge()
	w.audience()
	w.export()
	w.erase()
}

func (w *walk) create() {
	created, err := w.profiles.CreateProfile(w.context, &cameov1.CreateProfileRequest{
		Workspace: w.workspace,
		Profile: &cameov1.Profile{
			Mpid:                marky,
			UserIdentities:      []*cameov1.Identity{{Type: "email", Value: "Marky@example.com"}},
			UserAttributes:      attributes("$city", "New York", "ltv", 342.1, "plan", "basic", "bio", bio),
			AudienceMemberships: []*cameov1.AudienceMembership{{AudienceId: 17918, AudienceName: "Decor Remarketing"}},
		},
	})
	check(err)
	w.etag = created.Profile.Etag
	fmt.Printf("create: %d\n", created.Profile.Mpid)
}

func (w *walk) get() {
	found, err := w.profiles.GetProfile(w.context, &cameov1.GetProfileRequest{
		Workspace:         w.workspace,
		Key:               identity("email", "marky@EXAMPLE.com"),
		ReadMask:          &fieldmaskpb.FieldMask{Paths: []string{"mpid", "user_attributes"}},
		UserAttributeKeys: []string{"plan"},
	})
	check(err)
	fields := found.Profile.UserAttributes.Fields
	fmt.Printf("get: %d plan=%s attributes=%d etag=%s\n",
		found.Profile.Mpid, fields["plan"].GetStringValue(), len(fields), found.Profile.Etag)

	found, err = w.profiles.GetProfile(w.context, &cameov1.GetProfileRequest{Workspace: w.workspace, Key: mpid(marky)})
	check(err)
	fmt.Printf("get: bio=%d\n", len(found.Profile.UserAttributes.Fields["bio"].GetStringValue()))
}

func (w *walk) update() {
	updated, err := w.profiles.UpdateProfile(w.context, &cameov1.UpdateProfileRequest{
		Workspace: w.workspace,
		Key:       mpid(marky),
		Patch: &cameov1.ProfilePatch{
			SetUserAttributes:       attributes("plan", "pro"),
			IncrementUserAttributes: map[string]float64{"ltv": 20.5},
			LeaveAudiences:          []int64{17918},
		},
	})
	check(err)
	fields := updated.Profile.UserAttributes.Fields
	fmt.Printf("update: %s plan=%s ltv=%v audiences=%d\n", outcome(updated.Outcome),
		fields["plan"].GetStringValue(), fields["ltv"].GetNumberValue(), len(updated.Profile.AudienceMemberships))

	_, err = w.profiles.UpdateProfile(w.context, &cameov1.UpdateProfileRequest{
		Workspace: w.workspace,
		Key:       mpid(marky),
		Etag:      w.etag,
		Patch:     &cameov1.ProfilePatch{SetUserAttributes: attributes("plan", "free")},
	})
	fmt.Printf("update: %s\n", refused(status.Convert(err).Proto()))
}

func (w *walk) retry() {
	for range 2 {
		updated, err := w.profiles.UpdateProfile(w.context, &cameov1.UpdateProfileRequest{
			Workspace: w.workspace,
			Key:       mpid(marky),
			RequestId: "order-7",
			Patch:     &cameov1.ProfilePatch{IncrementUserAttributes: map[string]float64{"orders": 1}},
		})
		check(err)
		fmt.Printf("retry: orders=%v\n", updated.Profile.UserAttributes.Fields["orders"].GetNumberValue())
	}
}

func (w *walk) importRecords() {
	records := []*cameov1.ImportProfilesRequest{
		{Workspace: w.workspace, Silent: true, Key: mpid(1), Patch: &cameov1.ProfilePatch{
			SetUserAttributes: attributes("plan", "pro", "bio", bio),
		}},
		{Key: mpid(7), Patch: &cameov1.ProfilePatch{
			SetUserAttributes: attributes("plan", "basic"),
			AddIdentities:     []*cameov1.Identity{{Type: "customer_id", Value: "mxr15"}},
		}},
		{Key: identity("email", "marky@example.com"), Patch: &cameov1.ProfilePatch{
			SetUserAttributes: attributes("plan", "pro"),
		}},
		{Key: mpid(2), Patch: &cameov1.ProfilePatch{
			AddIdentities: []*cameov1.Identity{{Type: "email", Value: "marky@example.com"}},
		}},
	}
	stream, err := w.profiles.ImportProfiles(w.context)
	check(err)
	for _, record := range records {
		check(stream.Send(record))
	}
	imported, err := stream.CloseAndRecv()
	check(err)
	fmt.Printf("import: created=%d updated=%d unchanged=%d refused=%d\n",
		imported.Created, imported.Updated, imported.Unchanged, imported.Refused)
	for _, refusal := range imported.Refusals {
		fmt.Printf("import: record %d %s\n", refusal.Position, refused(refusal.Error))
	}
}

func (w *walk) batch() {
	batch, err := w.profiles.BatchGetProfiles(w.context, &cameov1.BatchGetProfilesRequest{
		Workspace:         w.workspace,
		Keys:              []*cameov1.ProfileKey{mpid(1), mpid(404), identity("customer_id", "mxr15")},
		UserAttributeKeys: []string{"plan"},
	})
	check(err)
	for _, result := range batch.Results {
		if found := result.GetFound(); found != nil {
			fmt.Printf("batch: plan=%s\n", found.UserAttributes.Fields["plan"].GetStringValue())
		} else {
			fmt.Printf("batch: %s\n", refused(result.GetError()))
		}
	}
}

func (w *walk) list() {
	var listed []string
	request := &cameov1.ListProfilesRequest{Workspace: w.workspace, PageSize: 2}
	for {
		page, err := w.profiles.ListProfiles(w.context, request)
		check(err)
		for _, profile := range page.Profiles {
			listed = append(listed, fmt.Sprint(profile.Mpid))
		}
		if page.NextPageToken == "" {
			break
		}
		request.PageToken = page.NextPageToken
	}
	fmt.Println("list:", strings.Join(listed, " "))
}

// Returns the cursor of the last event that was read.
func (w *walk) subscribe() string {
	closing, closeStream := context.WithCancel(w.context)
	defer closeStream()
	stream, err := w.events.Subscribe(closing, &cameov1.SubscribeRequest{
		Workspace: w.workspace,
		Start:     &cameov1.SubscribeRequest_Earliest{Earliest: true},
	})
	check(err)
	var cursor string
	for range 3 {
		message, err := stream.Recv()
		check(err)
		fmt.Println("subscribe:", describe(message))
		cursor = message.Cursor
	}
	return cursor
}

func (w *walk) resume(cursor string) {
	stream, err := w.events.Subscribe(w.context, &cameov1.SubscribeRequest{
		Workspace:     w.workspace,
		Start:         &cameov1.SubscribeRequest_Cursor{Cursor: cursor},
		UntilCaughtUp: true,
	})
	check(err)
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return
		}
		check(err)
		fmt.Println("resume:", describe(message))
	}
}

func (w *walk) history() {
	page, err := w.events.ListEvents(w.context, &cameov1.ListEventsRequest{
		Workspace: w.workspace,
		Filter:    &cameov1.EventFilter{Mpids: []int64{marky}},
	})
	check(err)
	var sequences []string
	for _, event := range page.Events {
		sequences = append(sequences, fmt.Sprint(event.Sequence))
	}
	fmt.Println("history:", strings.Join(sequences, " "))
}

func (w *walk) live() {
	closing, closeStream := context.WithCancel(w.context)
	defer closeStream()
	stream, err := w.events.Subscribe(closing, &cameov1.SubscribeRequest{Workspace: w.workspace})
	check(err)
	message, err := stream.Recv()
	check(err)
	fmt.Println("live:", describe(message))

	deleted, err := w.profiles.DeleteProfile(w.context, &cameov1.DeleteProfileRequest{
		Workspace: w.workspace,
		Key:       identity("customer_id", "mxr15"),
	})
	check(err)
	fmt.Println("delete:", outcome(deleted.Outcome))
	for message.GetEvent() == nil {
		message, err = stream.Recv()
		check(err)
	}
	fmt.Println("live:", describe(message))

	_, err = w.profiles.GetProfile(w.context, &cameov1.GetProfileRequest{Workspace: w.workspace, Key: mpid(7)})
	fmt.Printf("get: %s\n", refused(status.Convert(err).Proto()))
}

func (w *walk) identify() {
	found, err := w.identities.IdentifyProfile(w.context, &cameov1.IdentifyProfileRequest{
		Workspace: w.workspace,
		Identities: []*cameov1.Identity{
			{Type: "customer_id", Value: "mxr15"},
			{Type: "email", Value: "marky@EXAMPLE.com"},
		},
		Patch: &cameov1.ProfilePatch{SetUserAttributes: attributes("plan", "gold")},
	})
	check(err)
	match := found.Match
	fmt.Printf("identify: %s %d match=%d %s %s linked=%d\n", outcome(found.Outcome), found.Profile.Mpid,
		match.Index, match.Type, match.Reason, found.Linked[0])
}

func (w *walk) merge() {
	merged, err := w.identities.MergeProfiles(w.context, &cameov1.MergeProfilesRequest{
		Workspace: w.workspace,
		Into:      mpid(1),
		From:      mpid(marky),
	})
	check(err)
	var conflicts []string
	for _, conflict := range merged.Conflicts {
		conflicts = append(conflicts, fmt.Sprintf("%s=%t", conflict.Field, conflict.FromAbsorbed))
	}
	fmt.Printf("merge: %d absorbed=%d conflicts=%s\n",
		merged.Profile.Mpid, merged.MergedMpid, strings.Join(conflicts, ","))

	found, err := w.profiles.GetProfile(w.context, &cameov1.GetProfileRequest{Workspace: w.workspace, Key: mpid(marky)})
	check(err)
	fmt.Printf("get: %d redirected from %d\n", found.Profile.Mpid, found.RedirectedFrom)

	undone, err := w.identities.UnmergeProfiles(w.context, &cameov1.UnmergeProfilesRequest{
		Workspace:  w.workspace,
		MergedMpid: marky,
	})
	check(err)
	fmt.Printf("unmerge: %d survivor=%d kept=%d\n", undone.Profile.Mpid, undone.SurvivorMpid, len(undone.KeptFields))
}

func (w *walk) audience() {
	created, err := w.audiences.CreateAudience(w.context, &cameov1.CreateAudienceRequest{
		Workspace: w.workspace,
		Audience:  &cameov1.Audience{AudienceId: buyers, Name: "Buyers"},
	})
	check(err)
	fmt.Printf("audience: %d %s\n", created.Audience.AudienceId, created.Audience.State)

	added, err := w.audiences.AddAudienceMembers(w.context, &cameov1.AddAudienceMembersRequest{
		Workspace:  w.workspace,
		AudienceId: buyers,
		Keys:       []*cameov1.ProfileKey{mpid(marky), mpid(404)},
	})
	check(err)
	for _, result := range added.Results {
		if result.Error != nil {
			fmt.Printf("members: %s\n", refused(result.Error))
		} else {
			fmt.Printf("members: %d %s\n", result.Mpid, outcome(result.Outcome))
		}
	}
	page, err := w.audiences.ListAudienceMembers(w.context, &cameov1.ListAudienceMembersRequest{
		Workspace:  w.workspace,
		AudienceId: buyers,
	})
	check(err)
	var members []string
	for _, member := range page.Members {
		members = append(members, fmt.Sprint(member.Mpid))
	}
	fmt.Println("members:", strings.Join(members, " "))
}

func (w *walk) export() {
	stream, err := w.profiles.ExportSubject(w.context, &cameov1.ExportSubjectRequest{Workspace: w.workspace, Key: mpid(marky)})
	check(err)
	var parts strings.Builder
	for {
		part, err := stream.Recv()
		if err == io.EOF {
			break
		}
		check(err)
		parts.WriteString(part.Document)
	}
	var document struct {
		Mpid    string
		History []any
	}
	check(json.Unmarshal([]byte(parts.String()), &document))
	fmt.Printf("export: %s history=%d\n", document.Mpid, len(document.History))
}

func (w *walk) erase() {
	erased, err := w.profiles.EraseProfile(w.context, &cameov1.EraseProfileRequest{Workspace: w.workspace, Key: mpid(marky)})
	check(err)
	fmt.Printf("erase: %s %d events=%d\n", outcome(erased.Outcome), erased.Mpids[0], erased.Events)

	page, err := w.events.ListEvents(w.context, &cameov1.ListEventsRequest{
		Workspace: w.workspace,
		Filter:    &cameov1.EventFilter{Mpids: []int64{marky}},
	})
	check(err)
	for _, event := range page.Events {
		fmt.Printf("erased: %d %s %d merged=%d redacted=%t\n",
			event.Sequence, event.Type, event.Mpid, event.MergedMpid, event.Redacted)
	}
}

func describe(response *cameov1.SubscribeResponse) string {
	switch message := response.Message.(type) {
	case *cameov1.SubscribeResponse_Opened:
		return fmt.Sprintf("opened after=%d head=%d", message.Opened.AfterSequence, message.Opened.HeadSequence)
	case *cameov1.SubscribeResponse_Event:
		event := message.Event
		changed := strings.Join(event.ChangedUserAttributes, ",")
		return fmt.Sprintf("%d %s %d %s", event.Sequence, event.Type, event.Mpid, changed)
	case *cameov1.SubscribeResponse_CaughtUp:
		return fmt.Sprintf("caught up head=%d", message.CaughtUp.HeadSequence)
	default:
		return fmt.Sprintf("%T", message)
	}
}

// The code and the reason of an error: that of a call, or of one key or record.
func refused(failure *statuspb.Status) string {
	for _, detail := range status.FromProto(failure).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return fmt.Sprintf("refused %d %s %s", failure.GetCode(), info.Domain, info.Reason)
		}
	}
	return fmt.Sprintf("refused %d without a reason: %s", failure.GetCode(), failure.GetMessage())
}

func mpid(number int64) *cameov1.ProfileKey {
	return &cameov1.ProfileKey{Key: &cameov1.ProfileKey_Mpid{Mpid: number}}
}

func identity(kind, value string) *cameov1.ProfileKey {
	return &cameov1.ProfileKey{Key: &cameov1.ProfileKey_Identity{Identity: &cameov1.Identity{Type: kind, Value: value}}}
}

// Takes keys and values in turn.
func attributes(pairs ...any) *structpb.Struct {
	fields := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i].(string)] = pairs[i+1]
	}
	made, err := structpb.NewStruct(fields)
	check(err)
	return made
}

func outcome(outcome cameov1.WriteOutcome) string {
	return strings.TrimPrefix(outcome.String(), "WRITE_OUTCOME_")
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
