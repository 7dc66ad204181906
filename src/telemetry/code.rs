//! How metrics, traces and the audit log name the code that a call ends with: by the name of a gRPC code, or by the
//! number of an HTTP status.

/// The names of the codes of gRPC, in the order of their numbers.
pub const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The code of a call that its caller gave up.
pub const CANCELLED: &str = "CANCELLED";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_grpc() {
        for (number, name) in (0..).zip(GRPC_CODES) {
            let code = format!("{:?}", tonic::Code::from_i32(number)).to_uppercase();
            assert_eq!(name.replace('_', ""), code, "{number}");
        }
        assert_eq!(tonic::Code::from_i32(17), tonic::Code::Unknown, "there are no more");
    }
}
