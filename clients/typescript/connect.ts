// Walks through the API with Connect, as clients/conformance/README.md says, with gzip in both directions.
//
//     node dist/connect.js grpc|grpc-web <address> <workspace>
//
// gRPC-Web is spoken over HTTP/1.1, as browsers do without TLS.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { AudienceService } from "./gen/connect/cameo/v1/audience_service_pb.js";
import { AudienceState } from "./gen/connect/cameo/v1/audience_pb.js";
import { EventService, type SubscribeResponse } from "./gen/connect/cameo/v1/event_service_pb.js";
import { IdentityService, MatchReason } from "./gen/connect/cameo/v1/identity_service_pb.js";
import { type ImportProfilesRequestSchema, ProfileService } from "./gen/connect/cameo/v1/profile_service_pb.js";
import { WriteOutcome } from "./gen/connect/cameo/v1/write_pb.js";
import { type ErrorInfo, ErrorInfoSchema } from "./gen/connect/google/rpc/error_details_pb.js";
import type { Status } from "./gen/connect/google/rpc/status_pb.js";

const [protocol, address, workspace] = process.argv.slice(2);
const options = {
  baseUrl: `http://${address}`,
  acceptCompression: [compressionGzip],
  sendCompression: compressionGzip,
};
const transport =
  protocol === "grpc-web" ? createGrpcWebTransport({ ...options, httpVersion: "1.1" }) : createGrpcTransport(options);
const profiles = createClient(ProfileService, transport);
const events = createClient(EventService, transport);
const identities = createClient(IdentityService, transport);
const audiences = createClient(AudienceService, transport);

const marky = 9080350317581165000n;
const buyers = 9007199254740993n; // The first number that a double cannot hold.
const bio = "cameo ".repeat(8000);

const mpid = (value: bigint) => ({ key: { case: "mpid" as const, value } });
const identity = (type: string, value: string) => ({ key: { case: "identity" as const, value: { type, value } } });

async function create() {
  const { profile } = await profiles.createProfile({
    workspace,
    profile: {
      mpid: marky,
      userIdentities: [{ type: "email", value: "Marky@example.com" }],
      userAttributes: { $city: "New York", ltv: 342.1, plan: "basic", bio },
      audienceMemberships: [{ audienceId: 17918n, audienceName: "Decor Remarketing" }],
    },
  });
  console.log(`create: ${profile?.mpid}`);
  return profile?.etag;
}

async function get() {
  const { profile } = await profiles.getProfile({
    workspace,
    key: identity("email", "marky@EXAMPLE.com"),
    readMask: { paths: ["mpid", "user_attributes"] },
    userAttributeKeys: ["plan"],
  });
  const attributes = profile?.userAttributes ?? {};
  const count = Object.keys(attributes).length;
  console.log(`get: ${profile?.mpid} plan=${attributes.plan} attributes=${count} etag=${profile?.etag}`);

  const whole = await profiles.getProfile({ workspace, key: mpid(marky) });
  console.log(`get: bio=${String(whole.profile?.userAttributes?.bio).length}`);
}

async function update(createdEtag: string | undefined) {
  const { profile, outcome } = await profiles.updateProfile({
    workspace,
    key: mpid(marky),
    patch: {
      setUserAttributes: { plan: "pro" },
      incrementUserAttributes: { ltv: 20.5 },
      leaveAudiences: [17918n],
    },
  });
  const { plan, ltv } = profile?.userAttributes ?? {};
  const audiences = profile?.audienceMemberships.length;
  console.log(`update: ${WriteOutcome[outcome]} plan=${plan} ltv=${ltv} audiences=${audiences}`);

  const stale = profiles.updateProfile({
    workspace,
    key: mpid(marky),
    etag: createdEtag,
    patch: { setUserAttributes: { plan: "free" } },
  });
  console.log(`update: ${await refusal(stale)}`);
}

async function retry() {
  for (let attempt = 0; attempt < 2; attempt++) {
    const { profile } = await profiles.updateProfile({
      workspace,
      key: mpid(marky),
      requestId: "order-7",
      patch: { incrementUserAttributes: { orders: 1 } },
    });
    console.log(`retry: orders=${profile?.userAttributes?.orders}`);
  }
}

async function* records(): AsyncGenerator<MessageInitShape<typeof ImportProfilesRequestSchema>> {
  yield { workspace, silent: true, key: mpid(1n), patch: { setUserAttributes: { plan: "pro", bio } } };
  yield {
    key: mpid(7n),
    patch: { setUserAttributes: { plan: "basic" }, addIdentities: [{ type: "customer_id", value: "mxr15" }] },
  };
  yield { key: identity("email", "marky@example.com"), patch: { setUserAttributes: { plan: "pro" } } };
  yield { key: mpid(2n), patch: { addIdentities: [{ type: "email", value: "marky@example.com" }] } };
}

async function importRecords() {
  const { created, updated, unchanged, refused, refusals } = await profiles.importProfiles(records());
  console.log(`import: created=${created} updated=${updated} unchanged=${unchanged} refused=${refused}`);
  for (const { position, error } of refusals) {
    console.log(`import: record ${position} ${error && refusalIn(error)}`);
  }
}

async function batch() {
  const { results } = await profiles.batchGetProfiles({
    workspace,
    keys: [mpid(1n), mpid(404n), identity("customer_id", "mxr15")],
    userAttributeKeys: ["plan"],
  });
  for (const { result } of results) {
    const found = result.case === "found" ? `plan=${result.value.userAttributes?.plan}` : undefined;
    console.log(`batch: ${found ?? (result.case === "error" && refusalIn(result.value))}`);
  }
}

async function list() {
  const listed: bigint[] = [];
  let pageToken = "";
  do {
    const page = await profiles.listProfiles({ workspace, pageSize: 2, pageToken });
    listed.push(...page.profiles.map((profile) => profile.mpid));
    pageToken = page.nextPageToken;
  } while (pageToken);
  console.log(`list: ${listed.join(" ")}`);
}

/** Returns the cursor of the last event that was read. */
async function subscribe() {
  const closing = new AbortController();
  const stream = events.subscribe({ workspace, start: { case: "earliest", value: true } }, { signal: closing.signal });
  let cursor = "";
  let count = 0;
  for await (const message of stream) {
    console.log(`subscribe: ${describe(message)}`);
    cursor = message.cursor;
    if (++count === 3) break;
  }
  closing.abort();
  return cursor;
}

async function resume(cursor: string) {
  const stream = events.subscribe({ workspace, start: { case: "cursor", value: cursor }, untilCaughtUp: true });
  for await (const message of stream) {
    console.log(`resume: ${describe(message)}`);
  }
}

async function history() {
  const page = await events.listEvents({ workspace, filter: { mpids: [marky] } });
  console.log(`history: ${page.events.map((event) => event.sequence).join(" ")}`);
}

async function live() {
  const closing = new AbortController();
  const stream = events.subscribe({ workspace }, { signal: closing.signal });
  for await (const message of stream) {
    if (message.message.case === "heartbeat" || message.message.case === "caughtUp") continue;
    console.log(`live: ${describe(message)}`);
    if (message.message.case === "event") break;
    const { outcome } = await profiles.deleteProfile({ workspace, key: identity("customer_id", "mxr15") });
    console.log(`delete: ${WriteOutcome[outcome]}`);
  }
  closing.abort();
  console.log(`get: ${await refusal(profiles.getProfile({ workspace, key: mpid(7n) }))}`);
}

async function identify() {
  const { outcome, profile, match, linked } = await identities.identifyProfile({
    workspace,
    identities: [
      { type: "customer_id", value: "mxr15" },
      { type: "email", value: "marky@EXAMPLE.com" },
    ],
    patch: { setUserAttributes: { plan: "gold" } },
  });
  const reason = `MATCH_REASON_${MatchReason[match?.reason ?? 0]}`;
  const matched = `${match?.index} ${match?.type} ${reason}`;
  console.log(`identify: ${WriteOutcome[outcome]} ${profile?.mpid} match=${matched} linked=${linked[0]}`);
}

async function merge() {
  const merged = await identities.mergeProfiles({ workspace, into: mpid(1n), from: mpid(marky) });
  const conflicts = merged.conflicts.map(({ field, fromAbsorbed }) => `${field}=${fromAbsorbed}`);
  console.log(`merge: ${merged.profile?.mpid} absorbed=${merged.mergedMpid} conflicts=${conflicts.join(",")}`);

  const found = await profiles.getProfile({ workspace, key: mpid(marky) });
  console.log(`get: ${found.profile?.mpid} redirected from ${found.redirectedFrom}`);

  const undone = await identities.unmergeProfiles({ workspace, mergedMpid: marky });
  const kept = undone.keptFields.length;
  console.log(`unmerge: ${undone.profile?.mpid} survivor=${undone.survivorMpid} kept=${kept}`);
}

async function audience() {
  const { audience } = await audiences.createAudience({ workspace, audience: { audienceId: buyers, name: "Buyers" } });
  console.log(`audience: ${audience?.audienceId} AUDIENCE_STATE_${AudienceState[audience?.state ?? 0]}`);

  const keys = [mpid(marky), mpid(404n)];
  const { results } = await audiences.addAudienceMembers({ workspace, audienceId: buyers, keys });
  for (const { mpid, outcome, error } of results) {
    console.log(`members: ${error ? refusalIn(error) : `${mpid} ${WriteOutcome[outcome]}`}`);
  }
  const { members } = await audiences.listAudienceMembers({ workspace, audienceId: buyers });
  console.log(`members: ${members.map((member) => member.mpid).join(" ")}`);
}

async function exportSubject() {
  let parts = "";
  for await (const { document } of profiles.exportSubject({ workspace, key: mpid(marky) })) parts += document;
  const document = JSON.parse(parts);
  console.log(`export: ${document.mpid} history=${document.history.length}`);
}

async function erase() {
  const erased = await profiles.eraseProfile({ workspace, key: mpid(marky) });
  console.log(`erase: ${WriteOutcome[erased.outcome]} ${erased.mpids[0]} events=${erased.events}`);
  const page = await events.listEvents({ workspace, filter: { mpids: [marky] } });
  for (const { sequence, type, mpid, mergedMpid, redacted } of page.events) {
    console.log(`erased: ${sequence} ${type} ${mpid} merged=${mergedMpid} redacted=${redacted}`);
  }
}

function describe({ message }: SubscribeResponse) {
  switch (message.case) {
    case "opened":
      return `opened after=${message.value.afterSequence} head=${message.value.headSequence}`;
    case "event": {
      const { sequence, type, mpid, changedUserAttributes } = message.value;
      return `${sequence} ${type} ${mpid} ${changedUserAttributes.join(",")}`;
    }
    case "caughtUp":
      return `caught up head=${message.value.headSequence}`;
    default:
      return message.case;
  }
}

/** The code and the reason of a call that must fail. */
async function refusal(call: Promise<unknown>) {
  const error = await call.then(() => new ConnectError("the call succeeded", Code.Unknown), ConnectError.from);
  return reason(error.code, error.findDetails(ErrorInfoSchema)[0], error.message);
}

/** The code and the reason of one key or record. */
function refusalIn({ code, details, message }: Status) {
  const infos = details.map((detail) => anyUnpack(detail, ErrorInfoSchema));
  return reason(code, infos.find((info) => info !== undefined), message);
}

function reason(code: number, info: ErrorInfo | undefined, message: string) {
  return info ? `refused ${code} ${info.domain} ${info.reason}` : `refused ${code} without a reason: ${message}`;
}

const createdEtag = await create();
await get();
await update(createdEtag);
await retry();
await importRecords();
await batch();
await list();
await resume(await subscribe());
await history();
await live();
await identify();
await merge();
await audience();
await exportSubject();
await erase();
