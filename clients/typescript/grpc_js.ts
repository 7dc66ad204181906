// Walks through the API with grpc-js, as clients/conformance/README.md says, with gzip in both directions.
//
//     node dist/grpc_js.js <address> <workspace>

import { fileURLToPath } from "node:url";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import type { ExportSubjectResponse__Output } from "./gen/grpc-js/cameo/v1/ExportSubjectResponse.js";
import type { ImportProfilesRequest } from "./gen/grpc-js/cameo/v1/ImportProfilesRequest.js";
import type { ImportProfilesResponse__Output } from "./gen/grpc-js/cameo/v1/ImportProfilesResponse.js";
import type { SubscribeResponse__Output } from "./gen/grpc-js/cameo/v1/SubscribeResponse.js";
import type { Status__Output } from "./gen/grpc-js/google/rpc/Status.js";
import type { Struct__Output } from "./gen/grpc-js/google/protobuf/Struct.js";
import type { ProtoGrpcType as Audiences } from "./gen/grpc-js/audience_service.js";
import type { ProtoGrpcType as Details } from "./gen/grpc-js/error_details.js";
import type { ProtoGrpcType as Events } from "./gen/grpc-js/event_service.js";
import type { ProtoGrpcType as Identities } from "./gen/grpc-js/identity_service.js";
import type { ProtoGrpcType as Profiles } from "./gen/grpc-js/profile_service.js";

const [address, workspace] = process.argv.slice(2);

const protos = fileURLToPath(new URL("../proto", import.meta.url));
// The options of the command that generated the types: see package.json.
const definition = loader.loadSync(
  [
    "cameo/v1/profile_service.proto",
    "cameo/v1/event_service.proto",
    "cameo/v1/identity_service.proto",
    "cameo/v1/audience_service.proto",
    "google/rpc/error_details.proto",
  ],
  { includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true },
);
const { cameo, google } = grpc.loadPackageDefinition(definition) as unknown as Profiles &
  Events &
  Identities &
  Audiences &
  Details;
const options = { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip };
const profiles = new cameo.v1.ProfileService(address, grpc.credentials.createInsecure(), options);
const events = new cameo.v1.EventService(address, grpc.credentials.createInsecure(), options);
const identities = new cameo.v1.IdentityService(address, grpc.credentials.createInsecure(), options);
const audiences = new cameo.v1.AudienceService(address, grpc.credentials.createInsecure(), options);

const marky = "9080350317581165000";
const buyers = "9007199254740993"; // The first number that a double cannot hold.
const bio = "cameo ".repeat(8000);

const mpid = (mpid: string) => ({ mpid });
const identity = (type: string, value: string) => ({ identity: { type, value } });
const text = (stringValue: string) => ({ stringValue });
const plan = (value: string) => ({ fields: { plan: text(value) } });
const planIn = (attributes?: Struct__Output | null) => attributes?.fields?.plan?.stringValue;

type Unary<Request, Response> = (
  request: Request,
  callback: (error: grpc.ServiceError | null, response?: Response) => void,
) => grpc.ClientUnaryCall;

/** Makes a promise of a unary call. */
function call<Q, R>(client: grpc.Client, method: Unary<Q, R>, request: Q): Promise<R> {
  return new Promise((resolve, reject) => {
    method.call(client, request, (error, response) => (error ? reject(error) : resolve(response!)));
  });
}

async function create() {
  const { profile } = await call(profiles, profiles.CreateProfile, {
    workspace,
    profile: {
      mpid: marky,
      user_identities: [{ type: "email", value: "Marky@example.com" }],
      user_attributes: {
        fields: { $city: text("New York"), ltv: { numberValue: 342.1 }, bio: text(bio), ...plan("basic").fields },
      },
      audience_memberships: [{ audience_id: 17918, audience_name: "Decor Remarketing" }],
    },
  });
  console.log(`create: ${profile?.mpid}`);
  return profile?.etag;
}

async function get() {
  const masked = await call(profiles, profiles.GetProfile, {
    workspace,
    key: identity("email", "marky@EXAMPLE.com"),
    read_mask: { paths: ["mpid", "user_attributes"] },
    user_attribute_keys: ["plan"],
  });
  const profile = masked.profile;
  const count = Object.keys(profile?.user_attributes?.fields ?? {}).length;
  console.log(
    `get: ${profile?.mpid} plan=${planIn(profile?.user_attributes)} attributes=${count} etag=${profile?.etag}`,
  );

  const whole = await call(profiles, profiles.GetProfile, { workspace, key: mpid(marky) });
  console.log(`get: bio=${whole.profile?.user_attributes?.fields?.bio?.stringValue?.length}`);
}

async function update(createdEtag: string | undefined) {
  const { profile, outcome } = await call(profiles, profiles.UpdateProfile, {
    workspace,
    key: mpid(marky),
    patch: {
      set_user_attributes: plan("pro"),
      increment_user_attributes: { ltv: 20.5 },
      leave_audiences: [17918],
    },
  });
  const ltv = profile?.user_attributes?.fields?.ltv?.numberValue;
  const audiences = profile?.audience_memberships.length;
  console.log(
    `update: ${short(outcome)} plan=${planIn(profile?.user_attributes)} ltv=${ltv} audiences=${audiences}`,
  );

  const stale = call(profiles, profiles.UpdateProfile, {
    workspace,
    key: mpid(marky),
    etag: createdEtag,
    patch: { set_user_attributes: plan("free") },
  });
  console.log(`update: ${await refusal(stale)}`);
}

async function retry() {
  for (let attempt = 0; attempt < 2; attempt++) {
    const { profile } = await call(profiles, profiles.UpdateProfile, {
      workspace,
      key: mpid(marky),
      request_id: "order-7",
      patch: { increment_user_attributes: { orders: 1 } },
    });
    console.log(`retry: orders=${profile?.user_attributes?.fields?.orders?.numberValue}`);
  }
}

const records: ImportProfilesRequest[] = [
  {
    workspace,
    silent: true,
    key: mpid("1"),
    patch: { set_user_attributes: { fields: { bio: text(bio), ...plan("pro").fields } } },
  },
  {
    key: mpid("7"),
    patch: { set_user_attributes: plan("basic"), add_identities: [{ type: "customer_id", value: "mxr15" }] },
  },
  { key: identity("email", "marky@example.com"), patch: { set_user_attributes: plan("pro") } },
  { key: mpid("2"), patch: { add_identities: [{ type: "email", value: "marky@example.com" }] } },
];

async function importRecords() {
  const imported = await new Promise<ImportProfilesResponse__Output>((resolve, reject) => {
    const stream = profiles.ImportProfiles((error, response) => (error ? reject(error) : resolve(response!)));
    for (const record of records) stream.write(record);
    stream.end();
  });
  const { created, updated, unchanged, refused, refusals } = imported;
  console.log(`import: created=${created} updated=${updated} unchanged=${unchanged} refused=${refused}`);
  for (const { position, error } of refusals) {
    console.log(`import: record ${position} ${error && refusalIn(error)}`);
  }
}

async function batch() {
  const { results } = await call(profiles, profiles.BatchGetProfiles, {
    workspace,
    keys: [mpid("1"), mpid("404"), identity("customer_id", "mxr15")],
    user_attribute_keys: ["plan"],
  });
  for (const { found, error } of results) {
    console.log(`batch: ${error ? refusalIn(error) : `plan=${planIn(found?.user_attributes)}`}`);
  }
}

async function list() {
  const listed: string[] = [];
  let page_token = "";
  do {
    const page = await call(profiles, profiles.ListProfiles, { workspace, page_size: 2, page_token });
    listed.push(...page.profiles.map((profile) => profile.mpid));
    page_token = page.next_page_token;
  } while (page_token);
  console.log(`list: ${listed.join(" ")}`);
}

/** Returns the cursor of the last event that was read. */
async function subscribe() {
  const stream = events.Subscribe({ workspace, earliest: true });
  let cursor = "";
  let count = 0;
  for await (const message of read(stream)) {
    console.log(`subscribe: ${describe(message)}`);
    cursor = message.cursor;
    if (++count === 3) break;
  }
  return cursor;
}

async function resume(cursor: string) {
  for await (const message of read(events.Subscribe({ workspace, cursor, until_caught_up: true }))) {
    console.log(`resume: ${describe(message)}`);
  }
}

async function history() {
  const page = await call(events, events.ListEvents, { workspace, filter: { mpids: [marky] } });
  console.log(`history: ${page.events.map((event) => event.sequence).join(" ")}`);
}

async function live() {
  for await (const message of read(events.Subscribe({ workspace }))) {
    if (message.heartbeat || message.caught_up) continue;
    console.log(`live: ${describe(message)}`);
    if (message.event) break;
    const deleted = await call(profiles, profiles.DeleteProfile, { workspace, key: identity("customer_id", "mxr15") });
    console.log(`delete: ${short(deleted.outcome)}`);
  }
  console.log(`get: ${await refusal(call(profiles, profiles.GetProfile, { workspace, key: mpid("7") }))}`);
}

async function identify() {
  const { outcome, profile, match, linked } = await call(identities, identities.IdentifyProfile, {
    workspace,
    identities: [
      { type: "customer_id", value: "mxr15" },
      { type: "email", value: "marky@EXAMPLE.com" },
    ],
    patch: { set_user_attributes: plan("gold") },
  });
  const matched = `${match?.index} ${match?.type} ${match?.reason}`;
  console.log(`identify: ${short(outcome)} ${profile?.mpid} match=${matched} linked=${linked[0]}`);
}

async function merge() {
  const request = { workspace, into: mpid("1"), from: mpid(marky) };
  const merged = await call(identities, identities.MergeProfiles, request);
  const conflicts = merged.conflicts.map(({ field, from_absorbed }) => `${field}=${from_absorbed}`);
  console.log(`merge: ${merged.profile?.mpid} absorbed=${merged.merged_mpid} conflicts=${conflicts.join(",")}`);

  const found = await call(profiles, profiles.GetProfile, { workspace, key: mpid(marky) });
  console.log(`get: ${found.profile?.mpid} redirected from ${found.redirected_from}`);

  const undone = await call(identities, identities.UnmergeProfiles, { workspace, merged_mpid: marky });
  const kept = undone.kept_fields.length;
  console.log(`unmerge: ${undone.profile?.mpid} survivor=${undone.survivor_mpid} kept=${kept}`);
}

async function audience() {
  const { audience } = await call(audiences, audiences.CreateAudience, {
    workspace,
    audience: { audience_id: buyers, name: "Buyers" },
  });
  console.log(`audience: ${audience?.audience_id} ${audience?.state}`);

  const keys = [mpid(marky), mpid("404")];
  const added = await call(audiences, audiences.AddAudienceMembers, { workspace, audience_id: buyers, keys });
  for (const { mpid, outcome, error } of added.results) {
    console.log(`members: ${error ? refusalIn(error) : `${mpid} ${short(outcome)}`}`);
  }
  const page = await call(audiences, audiences.ListAudienceMembers, { workspace, audience_id: buyers });
  console.log(`members: ${page.members.map((member) => member.mpid).join(" ")}`);
}

async function exportSubject() {
  const stream = profiles.ExportSubject({ workspace, key: mpid(marky) });
  let parts = "";
  for await (const { document } of stream as AsyncIterable<ExportSubjectResponse__Output>) parts += document;
  const document = JSON.parse(parts);
  console.log(`export: ${document.mpid} history=${document.history.length}`);
}

async function erase() {
  const erased = await call(profiles, profiles.EraseProfile, { workspace, key: mpid(marky) });
  console.log(`erase: ${short(erased.outcome)} ${erased.mpids[0]} events=${erased.events}`);
  const page = await call(events, events.ListEvents, { workspace, filter: { mpids: [marky] } });
  for (const { sequence, type, mpid, merged_mpid, redacted } of page.events) {
    console.log(`erased: ${sequence} ${type} ${mpid} merged=${merged_mpid} redacted=${redacted}`);
  }
}

/** The messages of a stream. The stream is closed when the loop over them ends. */
async function* read(stream: grpc.ClientReadableStream<SubscribeResponse__Output>) {
  try {
    yield* stream as AsyncIterable<SubscribeResponse__Output>;
  } finally {
    stream.on("error", () => {}); // Closing it is an error too: CANCELLED.
    stream.cancel();
  }
}

function describe({ opened, event, caught_up }: SubscribeResponse__Output) {
  if (opened) return `opened after=${opened.after_sequence} head=${opened.head_sequence}`;
  if (event) return `${event.sequence} ${event.type} ${event.mpid} ${event.changed_user_attributes.join(",")}`;
  return `caught up head=${caught_up?.head_sequence}`;
}

/** The code and the reason of a call that must fail. */
async function refusal(call: Promise<unknown>) {
  const error = await call.then(() => undefined, (error: grpc.ServiceError) => error);
  const [bytes] = error?.metadata.get("grpc-status-details-bin") ?? [];
  return bytes ? refusalIn(google.rpc.Status.deserialize(bytes as Buffer)) : `not refused with a reason: ${error}`;
}

/** The code and the reason of one key or record. */
function refusalIn({ code, details, message }: Status__Output) {
  const packed = details.find(({ type_url }) => type_url.endsWith("/google.rpc.ErrorInfo"));
  if (!packed) return `refused ${code} without a reason: ${message}`;
  const { domain, reason } = google.rpc.ErrorInfo.deserialize(packed.value as Buffer);
  return `refused ${code} ${domain} ${reason}`;
}

function short(outcome: string) {
  return outcome.replace("WRITE_OUTCOME_", "");
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
for (const client of [profiles, events, identities, audiences]) client.close();
