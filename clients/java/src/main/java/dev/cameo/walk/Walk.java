package dev.cameo.walk;

import com.google.gson.JsonParser;
import com.google.protobuf.FieldMask;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.rpc.ErrorInfo;
import dev.cameo.v1.AddAudienceMembersRequest;
import dev.cameo.v1.Audience;
import dev.cameo.v1.AudienceMembership;
import dev.cameo.v1.AudienceServiceGrpc;
import dev.cameo.v1.AudienceServiceGrpc.AudienceServiceBlockingV2Stub;
import dev.cameo.v1.BatchGetProfilesRequest;
import dev.cameo.v1.CreateAudienceRequest;
import dev.cameo.v1.CreateProfileRequest;
import dev.cameo.v1.DeleteProfileRequest;
import dev.cameo.v1.EraseProfileRequest;
import dev.cameo.v1.EventFilter;
import dev.cameo.v1.EventServiceGrpc;
import dev.cameo.v1.EventServiceGrpc.EventServiceBlockingV2Stub;
import dev.cameo.v1.ExportSubjectRequest;
import dev.cameo.v1.GetProfileRequest;
import dev.cameo.v1.IdentifyProfileRequest;
import dev.cameo.v1.Identity;
import dev.cameo.v1.IdentityServiceGrpc;
import dev.cameo.v1.IdentityServiceGrpc.IdentityServiceBlockingV2Stub;
import dev.cameo.v1.ImportProfilesRequest;
import dev.cameo.v1.ListAudienceMembersRequest;
import dev.cameo.v1.ListEventsRequest;
import dev.cameo.v1.ListProfilesRequest;
import dev.cameo.v1.MergeProfilesRequest;
import dev.cameo.v1.Profile;
import dev.cameo.v1.ProfileKey;
import dev.cameo.v1.ProfilePatch;
import dev.cameo.v1.ProfileServiceGrpc;
import dev.cameo.v1.ProfileServiceGrpc.ProfileServiceBlockingV2Stub;
import dev.cameo.v1.SubscribeRequest;
import dev.cameo.v1.SubscribeResponse;
import dev.cameo.v1.UnmergeProfilesRequest;
import dev.cameo.v1.UpdateProfileRequest;
import dev.cameo.v1.WriteOutcome;
import io.grpc.Channel;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.StringJoiner;

/** Walks through the API with grpc-java, as clients/conformance/README.md says, with gzip in both directions. */
public class Walk {
  private static final long MARKY = 9080350317581165000L;
  private static final long BUYERS = 9007199254740993L; // The first number that a double cannot hold.
  private static final String BIO = "cameo ".repeat(8000);

  private final String workspace;
  private final ProfileServiceBlockingV2Stub profiles;
  private final EventServiceBlockingV2Stub events;
  private final IdentityServiceBlockingV2Stub identities;
  private final AudienceServiceBlockingV2Stub audiences;

  /** Takes an address and an empty workspace. */
  public static void main(String[] args) throws Exception {
    var channel = Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create()).build();
    new Walk(args[1], channel).run();
    channel.shutdown();
  }

  private Walk(String workspace, Channel channel) {
    this.workspace = workspace;
    // Every client accepts gzip. This one sends it too.
    profiles = ProfileServiceGrpc.newBlockingV2Stub(channel).withCompression("gzip");
    events = EventServiceGrpc.newBlockingV2Stub(channel).withCompression("gzip");
    identities = IdentityServiceGrpc.newBlockingV2Stub(channel).withCompression("gzip");
    audiences = AudienceServiceGrpc.newBlockingV2Stub(channel).withCompression("gzip");
  }

  private void run() throws Exception {
    var createdEtag = create();
    get();
    update(createdEtag);
    retry();
    importRecords();
    batch();
    list();
    resume(subscribe());
    history();
    live();
    identify();
    merge();
    audience();
    export();
    erase();
  }

  private String create() throws StatusException {
    var created = profiles.createProfile(CreateProfileRequest.newBuilder()
        .setWorkspace(workspace)
        .setProfile(Profile.newBuilder()
            .setMpid(MARKY)
            .addUserIdentities(identity("email", "Marky@example.com"))
            .setUserAttributes(plan("basic").toBuilder()
                .putFields("$city", text("New York"))
                .putFields("ltv", Value.newBuilder().setNumberValue(342.1).build())
                .putFields("bio", text(BIO)))
            .addAudienceMemberships(AudienceMembership.newBuilder()
                .setAudienceId(17918)
                .setAudienceName("Decor Remarketing")))
        .build());
    print("create: %d", created.getProfile().getMpid());
    return created.getProfile().getEtag();
  }

  private void get() throws StatusException {
    var masked = profiles.getProfile(GetProfileRequest.newBuilder()
        .setWorkspace(workspace)
        .setKey(key(identity("email", "marky@EXAMPLE.com")))
        .setReadMask(FieldMask.newBuilder().addPaths("mpid").addPaths("user_attributes"))
        .addUserAttributeKeys("plan")
        .build()).getProfile();
    var count = masked.getUserAttributes().getFieldsCount();
    print("get: %d plan=%s attributes=%d etag=%s", masked.getMpid(), planOf(masked), count, masked.getEtag());

    var whole = profiles.getProfile(getRequest(MARKY)).getProfile();
    print("get: bio=%d", whole.getUserAttributes().getFieldsOrThrow("bio").getStringValue().length());
  }

  private void update(String createdEtag) throws StatusException {
    var updated = profiles.updateProfile(updateRequest(ProfilePatch.newBuilder()
        .setSetUserAttributes(plan("pro"))
        .putIncrementUserAttributes("ltv", 20.5)
        .addLeaveAudiences(17918)).build());
    var profile = updated.getProfile();
    print("update: %s plan=%s ltv=%s audiences=%d", name(updated.getOutcome()), planOf(profile),
        profile.getUserAttributes().getFieldsOrThrow("ltv").getNumberValue(), profile.getAudienceMembershipsCount());

    var stale = updateRequest(ProfilePatch.newBuilder().setSetUserAttributes(plan("free"))).setEtag(createdEtag);
    print("update: %s", refusal(() -> profiles.updateProfile(stale.build())));
  }

  private void retry() throws StatusException {
    for (int attempt = 0; attempt < 2; attempt++) {
      var patch = ProfilePatch.newBuilder().putIncrementUserAttributes("orders", 1);
      var updated = profiles.updateProfile(updateRequest(patch).setRequestId("order-7").build());
      var orders = updated.getProfile().getUserAttributes().getFieldsOrThrow("orders").getNumberValue();
      print("retry: orders=%d", (long) orders);
    }
  }

  private void importRecords() throws Exception {
    var call = profiles.importProfiles();
    call.write(record(key(1), ProfilePatch.newBuilder()
        .setSetUserAttributes(plan("pro").toBuilder().putFields("bio", text(BIO))))
        .setWorkspace(workspace)
        .setSilent(true)
        .build());
    call.write(record(key(7), ProfilePatch.newBuilder()
        .setSetUserAttributes(plan("basic"))
        .addAddIdentities(identity("customer_id", "mxr15"))).build());
    call.write(record(key(identity("email", "marky@example.com")), ProfilePatch.newBuilder()
        .setSetUserAttributes(plan("pro"))).build());
    call.write(record(key(2), ProfilePatch.newBuilder()
        .addAddIdentities(identity("email", "marky@example.com"))).build());
    call.halfClose();

    var imported = call.read();
    print("import: created=%d updated=%d unchanged=%d refused=%d", imported.getCreated(), imported.getUpdated(),
        imported.getUnchanged(), imported.getRefused());
    for (var refusal : imported.getRefusalsList()) {
      print("import: record %d %s", refusal.getPosition(), reason(refusal.getError()));
    }
  }

  private void batch() throws Exception {
    var batch = profiles.batchGetProfiles(BatchGetProfilesRequest.newBuilder()
        .setWorkspace(workspace)
        .addAllKeys(List.of(key(1), key(404), key(identity("customer_id", "mxr15"))))
        .addUserAttributeKeys("plan")
        .build());
    for (var result : batch.getResultsList()) {
      print("batch: %s", result.hasFound() ? "plan=" + planOf(result.getFound()) : reason(result.getError()));
    }
  }

  private void list() throws StatusException {
    var listed = new StringJoiner(" ");
    var request = ListProfilesRequest.newBuilder().setWorkspace(workspace).setPageSize(2);
    do {
      var page = profiles.listProfiles(request.build());
      page.getProfilesList().forEach(profile -> listed.add(Long.toString(profile.getMpid())));
      request.setPageToken(page.getNextPageToken());
    } while (!request.getPageToken().isEmpty());
    print("list: %s", listed);
  }

  /** Returns the cursor of the last event that was read. */
  private String subscribe() throws Exception {
    var stream = events.subscribe(subscribeRequest().setEarliest(true).build());
    var cursor = "";
    for (int count = 0; count < 3; count++) {
      var message = stream.read();
      print("subscribe: %s", describe(message));
      cursor = message.getCursor();
    }
    stream.cancel("read enough", null);
    return cursor;
  }

  private void resume(String cursor) throws Exception {
    var stream = events.subscribe(subscribeRequest().setCursor(cursor).setUntilCaughtUp(true).build());
    for (var message = stream.read(); message != null; message = stream.read()) {
      print("resume: %s", describe(message));
    }
  }

  private void history() throws StatusException {
    var page = events.listEvents(ListEventsRequest.newBuilder()
        .setWorkspace(workspace)
        .setFilter(EventFilter.newBuilder().addMpids(MARKY))
        .build());
    var sequences = new StringJoiner(" ");
    page.getEventsList().forEach(event -> sequences.add(Long.toString(event.getSequence())));
    print("history: %s", sequences);
  }

  private void live() throws Exception {
    var stream = events.subscribe(subscribeRequest().build());
    var message = stream.read();
    print("live: %s", describe(message));

    var deleted = profiles.deleteProfile(DeleteProfileRequest.newBuilder()
        .setWorkspace(workspace)
        .setKey(key(identity("customer_id", "mxr15")))
        .build());
    print("delete: %s", name(deleted.getOutcome()));
    while (!message.hasEvent()) {
      message = stream.read();
    }
    print("live: %s", describe(message));
    stream.cancel("read enough", null);
    print("get: %s", refusal(() -> profiles.getProfile(getRequest(7))));
  }

  private void identify() throws StatusException {
    var found = identities.identifyProfile(IdentifyProfileRequest.newBuilder()
        .setWorkspace(workspace)
        .addIdentities(identity("customer_id", "mxr15"))
        .addIdentities(identity("email", "marky@EXAMPLE.com"))
        .setPatch(ProfilePatch.newBuilder().setSetUserAttributes(plan("gold")))
        .build());
    var match = found.getMatch();
    print("identify: %s %d match=%d %s %s linked=%d", name(found.getOutcome()), found.getProfile().getMpid(),
        match.getIndex(), match.getType(), match.getReason(), found.getLinked(0));
  }

  private void merge() throws StatusException {
    var merged = identities.mergeProfiles(MergeProfilesRequest.newBuilder()
        .setWorkspace(workspace)
        .setInto(key(1))
        .setFrom(key(MARKY))
        .build());
    var conflicts = new StringJoiner(",");
    merged.getConflictsList().forEach(conflict -> conflicts.add(conflict.getField() + "=" + conflict.getFromAbsorbed()));
    print("merge: %d absorbed=%d conflicts=%s", merged.getProfile().getMpid(), merged.getMergedMpid(), conflicts);

    var found = profiles.getProfile(getRequest(MARKY));
    print("get: %d redirected from %d", found.getProfile().getMpid(), found.getRedirectedFrom());

    var undone = identities.unmergeProfiles(UnmergeProfilesRequest.newBuilder()
        .setWorkspace(workspace)
        .setMergedMpid(MARKY)
        .build());
    print("unmerge: %d survivor=%d kept=%d", undone.getProfile().getMpid(), undone.getSurvivorMpid(),
        undone.getKeptFieldsCount());
  }

  private void audience() throws StatusException {
    var created = audiences.createAudience(CreateAudienceRequest.newBuilder()
        .setWorkspace(workspace)
        .setAudience(Audience.newBuilder().setAudienceId(BUYERS).setName("Buyers"))
        .build()).getAudience();
    print("audience: %d %s", created.getAudienceId(), created.getState());

    var added = audiences.addAudienceMembers(AddAudienceMembersRequest.newBuilder()
        .setWorkspace(workspace)
        .setAudienceId(BUYERS)
        .addAllKeys(List.of(key(MARKY), key(404)))
        .build());
    for (var result : added.getResultsList()) {
      print("members: %s", result.hasError()
          ? reason(result.getError())
          : result.getMpid() + " " + name(result.getOutcome()));
    }
    var page = audiences.listAudienceMembers(ListAudienceMembersRequest.newBuilder()
        .setWorkspace(workspace)
        .setAudienceId(BUYERS)
        .build());
    var members = new StringJoiner(" ");
    page.getMembersList().forEach(member -> members.add(Long.toString(member.getMpid())));
    print("members: %s", members);
  }

  private void export() throws Exception {
    var stream = profiles.exportSubject(ExportSubjectRequest.newBuilder()
        .setWorkspace(workspace)
        .setKey(key(MARKY))
        .build());
    var parts = new StringBuilder();
    for (var part = stream.read(); part != null; part = stream.read()) {
      parts.append(part.getDocument());
    }
    var document = JsonParser.parseString(parts.toString()).getAsJsonObject();
    print("export: %s history=%d", document.get("mpid").getAsString(), document.getAsJsonArray("history").size());
  }

  private void erase() throws StatusException {
    var erased = profiles.eraseProfile(EraseProfileRequest.newBuilder()
        .setWorkspace(workspace)
        .setKey(key(MARKY))
        .build());
    print("erase: %s %d events=%d", name(erased.getOutcome()), erased.getMpids(0), erased.getEvents());
    var page = events.listEvents(ListEventsRequest.newBuilder()
        .setWorkspace(workspace)
        .setFilter(EventFilter.newBuilder().addMpids(MARKY))
        .build());
    for (var event : page.getEventsList()) {
      print("erased: %d %s %d merged=%d redacted=%b", event.getSequence(), event.getType(), event.getMpid(),
          event.getMergedMpid(), event.getRedacted());
    }
  }

  private static String describe(SubscribeResponse message) {
    if (message.hasOpened()) {
      var opened = message.getOpened();
      return "opened after=%d head=%d".formatted(opened.getAfterSequence(), opened.getHeadSequence());
    }
    if (message.hasEvent()) {
      var event = message.getEvent();
      var changed = String.join(",", event.getChangedUserAttributesList());
      return "%d %s %d %s".formatted(event.getSequence(), event.getType(), event.getMpid(), changed);
    }
    return "caught up head=%d".formatted(message.getCaughtUp().getHeadSequence());
  }

  private interface Call {
    Object call() throws StatusException;
  }

  /** The code and the reason of a call that must fail. */
  private static String refusal(Call call) {
    try {
      return "not refused: " + call.call();
    } catch (StatusException error) {
      return reason(StatusProto.fromThrowable(error));
    }
  }

  /** The code and the reason of an error: that of a call, or of one key or record. */
  private static String reason(com.google.rpc.Status status) {
    for (var detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        try {
          var info = detail.unpack(ErrorInfo.class);
          return "refused %d %s %s".formatted(status.getCode(), info.getDomain(), info.getReason());
        } catch (InvalidProtocolBufferException error) {
          throw new IllegalArgumentException(error);
        }
      }
    }
    return "refused %d without a reason: %s".formatted(status.getCode(), status.getMessage());
  }

  private GetProfileRequest getRequest(long mpid) {
    return GetProfileRequest.newBuilder().setWorkspace(workspace).setKey(key(mpid)).build();
  }

  private UpdateProfileRequest.Builder updateRequest(ProfilePatch.Builder patch) {
    return UpdateProfileRequest.newBuilder().setWorkspace(workspace).setKey(key(MARKY)).setPatch(patch);
  }

  private SubscribeRequest.Builder subscribeRequest() {
    return SubscribeRequest.newBuilder().setWorkspace(workspace);
  }

  private static ImportProfilesRequest.Builder record(ProfileKey key, ProfilePatch.Builder patch) {
    return ImportProfilesRequest.newBuilder().setKey(key).setPatch(patch);
  }

  private static ProfileKey key(long mpid) {
    return ProfileKey.newBuilder().setMpid(mpid).build();
  }

  private static ProfileKey key(Identity identity) {
    return ProfileKey.newBuilder().setIdentity(identity).build();
  }

  private static Identity identity(String type, String value) {
    return Identity.newBuilder().setType(type).setValue(value).build();
  }

  private static Struct plan(String plan) {
    return Struct.newBuilder().putFields("plan", text(plan)).build();
  }

  private static String planOf(Profile profile) {
    return profile.getUserAttributes().getFieldsOrThrow("plan").getStringValue();
  }

  private static Value text(String value) {
    return Value.newBuilder().setStringValue(value).build();
  }

  private static String name(WriteOutcome outcome) {
    return outcome.name().replace("WRITE_OUTCOME_", "");
  }

  private static void print(String line, Object... values) {
    System.out.println(line.formatted(values));
  }
}
