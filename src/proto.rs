//! The generated messages and clients of `proto/cameo`. The comments there are the API reference.

pub mod json;

/// Package `cameo.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)] // Generated.
pub mod v1 {
    tonic::include_proto!("cameo.v1");
}

/// Package `cameo.storage.v1`: what the store writes in addition to the messages of the API. Reflection does not serve
/// it.
#[allow(clippy::all, clippy::pedantic, missing_docs)] // Generated.
pub mod storage {
    tonic::include_proto!("storage/cameo.storage.v1");
}

/// The field numbers of `cameo.v1` and `google.protobuf.Struct`, for code that cuts wire bytes. Each message has a
/// module with a constant for each field, such as `field::profile::USER_ATTRIBUTES`, and a list `ALL` of its fields.
#[allow(missing_docs)] // Generated.
pub mod field {
    include!(concat!(env!("OUT_DIR"), "/field.rs"));
}

/// The files of the API with their imports and comments, as reflection serves them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};

    use super::*;

    #[test]
    fn reflection_serves_the_api_and_nothing_of_the_store() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let packages: BTreeSet<_> = files.iter().map(FileDescriptorProto::package).collect();
        assert_eq!(packages.into_iter().collect::<Vec<_>>(), ["cameo.v1", "google.protobuf", "google.rpc"]);
    }

    #[test]
    fn fields_have_their_numbers_in_the_order_of_the_numbers() {
        assert_eq!(field::subscribe_response::HEARTBEAT, 6);
        assert_eq!(field::struct_fields_entry::KEY, 1);
        assert_eq!(field::get_event_response::ALL, [("event", 1), ("cursor", 2)]);
    }
}
