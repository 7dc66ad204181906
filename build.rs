//! Generates the protobuf code without protoc: protox compiles, tonic-prost-build generates.
//!
//! Two passes. The first makes the messages and the clients. The second makes the servers, whose responses are encoded
//! already when they reach the codec (`grpc::codec`): what is stored is what is sent.

use std::path::{Path, PathBuf};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=proto");

    let files: Vec<_> =
        std::fs::read_dir("proto/cameo/v1")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    let mut compiler = protox::Compiler::new([Path::new("proto")])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;

    // What reflection serves: with imports, so that it is closed, and with comments, so that it documents.
    let descriptors = compiler.encode_file_descriptor_set();
    std::fs::write(out.join("descriptors.bin"), &descriptors)?;
    let descriptors = tonic_prost_build::FileDescriptorSet::decode(&*descriptors)?;

    tonic_prost_build::configure()
        .btree_map(".") // Equal messages have equal bytes.
        .extern_path(".google.rpc", "::tonic_types::pb")
        .build_server(false)
        .compile_fds(descriptors.clone())?;

    let servers = out.join("server");
    std::fs::create_dir_all(&servers)?;
    let mut builder = tonic_prost_build::configure()
        .build_client(false)
        .out_dir(servers)
        .codec_path("crate::grpc::codec::FrameCodec")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .extern_path(".cameo.v1", "crate::proto::v1");
    for response in responses(&descriptors) {
        builder = builder.extern_path(response, "crate::grpc::codec::Encoded");
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

/// Every message that an RPC of ours answers.
fn responses(descriptors: &tonic_prost_build::FileDescriptorSet) -> Vec<String> {
    let files = descriptors.file.iter().filter(|file| file.package() == "cameo.v1");
    let methods = files.flat_map(|file| &file.service).flat_map(|service| &service.method);
    methods.map(|method| method.output_type().to_owned()).collect()
}
