//! Generates the protobuf code without protoc: protox compiles, tonic-prost-build generates.
//!
//! - The API in `proto/cameo/v1`, in two passes. The first pass makes the messages and the clients. The second makes
//!   the servers. Their responses are already encoded when they reach the codec (`grpc::codec`), because stored bytes
//!   are sent as they are.
//! - The field numbers of the API, for the code that cuts wire bytes (`model::wire`).
//! - The messages of the store in `proto/cameo/storage/v1`. They are internal, so reflection does not serve them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use protox::prost::Message;
use protox::prost_reflect::{DescriptorPool, MessageDescriptor};
use tonic_prost_build::FileDescriptorSet;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const API: &str = "proto/cameo/v1";
/// The details of errors, which reflection serves too, so that grpcurl shows them.
const ERRORS: &str = "proto/google/rpc";
const STORAGE: &str = "proto/cameo/storage/v1";

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=proto");

    let mut files = proto_files(API)?;
    files.extend(proto_files(ERRORS)?);
    let api = compile(files)?;
    let encoded = api.encode_file_descriptor_set(); // Unlike the pool, this keeps the comments.
    fs::write(out.join("descriptors.bin"), &encoded)?;
    let descriptors = FileDescriptorSet::decode(&*encoded)?;
    generate_api(descriptors.clone())?;
    generate_servers(descriptors, &directory(&out, "server")?)?;
    fs::write(out.join("field.rs"), field_numbers(&api.descriptor_pool())?)?;
    generate_storage(&directory(&out, "storage")?)
}

/// The `.proto` files of a directory; none if it does not exist.
fn proto_files(directory: &str) -> Result<Vec<PathBuf>> {
    if !Path::new(directory).exists() {
        return Ok(Vec::new());
    }
    let paths = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = paths.collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort(); // The order of a directory differs between machines; the output should not.
    Ok(files)
}

/// Includes imports, so that reflection serves a complete set, and comments, so that it serves the documentation.
fn compile(files: Vec<PathBuf>) -> Result<protox::Compiler> {
    let mut compiler = protox::Compiler::new([Path::new("proto")])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    Ok(compiler)
}

fn directory(out: &Path, name: &str) -> Result<PathBuf> {
    let directory = out.join(name);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn generate_api(descriptors: FileDescriptorSet) -> Result<()> {
    let builder = tonic_prost_build::configure()
        .btree_map(".") // Equal messages have equal bytes.
        .extern_path(".google.rpc", "::tonic_types::pb")
        .build_server(false);
    Ok(builder.compile_fds(descriptors)?)
}

fn generate_servers(descriptors: FileDescriptorSet, out: &Path) -> Result<()> {
    let mut builder = tonic_prost_build::configure()
        .build_client(false)
        .out_dir(out)
        .codec_path("crate::grpc::codec::FrameCodec")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .extern_path(".cameo.v1", "crate::proto::v1");
    for response in responses(&descriptors) {
        builder = builder.extern_path(response, "crate::grpc::codec::Encoded");
    }
    Ok(builder.compile_fds(descriptors)?)
}

/// The response messages of our RPCs.
fn responses(descriptors: &FileDescriptorSet) -> Vec<String> {
    let files = descriptors.file.iter().filter(|file| file.package() == "cameo.v1");
    let methods = files.flat_map(|file| &file.service).flat_map(|service| &service.method);
    methods.map(|method| method.output_type().to_owned()).collect()
}

/// The messages of the store, which may hold messages of the API.
fn generate_storage(out: &Path) -> Result<()> {
    // `proto::storage` includes this file whether or not the directory has messages.
    fs::write(out.join("cameo.storage.v1.rs"), "")?;
    let descriptors = compile(proto_files(STORAGE)?)?.encode_file_descriptor_set();
    let builder = tonic_prost_build::configure()
        .btree_map(".") // Equal messages have equal bytes.
        .build_client(false) // Otherwise the services of imported API files would be generated again.
        .build_server(false)
        .out_dir(out)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .extern_path(".cameo.v1", "crate::proto::v1");
    Ok(builder.compile_fds(FileDescriptorSet::decode(&*descriptors)?)?)
}

/// A module for each message, with a constant for each field and a list of all fields.
fn field_numbers(pool: &DescriptorPool) -> Result<String> {
    let mut code = String::new();
    for message in pool.all_messages() {
        // Attributes are a Struct, so cutting a profile to some attributes cuts inside a Struct.
        let is_struct = message.full_name().starts_with("google.protobuf.Struct");
        if message.package_name() == "cameo.v1" || is_struct {
            write_module(&message, &mut code)?;
        }
    }
    Ok(code)
}

fn write_module(message: &MessageDescriptor, code: &mut String) -> Result<()> {
    writeln!(code, "/// `{}`.\npub mod {} {{", message.full_name(), module_name(message))?;
    let mut list = String::new();
    for field in message.fields() {
        let (name, number) = (field.name(), field.number());
        writeln!(code, "    pub const {}: u32 = {number};", name.to_uppercase())?;
        write!(list, "({name:?}, {number}), ")?;
    }
    writeln!(code, "    /// All fields, ordered by number.\n    pub const ALL: &[(&str, u32)] = &[{list}];\n}}")?;
    Ok(())
}

/// The message's name in snake case. The name of a nested message, such as a map entry, starts with that of its parent.
fn module_name(message: &MessageDescriptor) -> String {
    let mut name = String::new();
    for character in message.full_name()[message.package_name().len()..].chars() {
        match character {
            '.' => {}
            _ if character.is_uppercase() && !name.is_empty() => name.extend(['_', character.to_ascii_lowercase()]),
            _ => name.push(character.to_ascii_lowercase()),
        }
    }
    if name == "struct" { "struct_message".to_owned() } else { name } // `struct` is a keyword.
}
