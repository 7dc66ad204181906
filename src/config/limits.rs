//! What callers may send. `model::limits` has the limits that are part of the contract, and not a setting.

use clap::Args;

use super::units;

/// What callers may send. A call that is over a limit is refused as `LIMIT_EXCEEDED`, unless a limit says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Size of a profile, encoded. Clients must be able to receive two of the largest size: gRPC clients take 4 MiB
    /// unless they are told otherwise.
    #[arg(long = "max-profile-bytes", env = "CAMEO_MAX_PROFILE_BYTES")]
    #[arg(value_parser = units::positive_size, default_value = "256KiB")]
    pub profile_bytes: usize,
    /// Attributes in each of a profile's two maps.
    #[arg(long = "max-attributes", env = "CAMEO_MAX_ATTRIBUTES", value_parser = units::count, default_value = "1000")]
    pub attributes: usize,
    /// Size of an attribute's key.
    #[arg(long = "max-attribute-key-bytes", env = "CAMEO_MAX_ATTRIBUTE_KEY_BYTES")]
    #[arg(value_parser = units::positive_size, default_value = "256B")]
    pub attribute_key_bytes: usize,
    /// Size of an attribute's value, encoded.
    #[arg(long = "max-attribute-value-bytes", env = "CAMEO_MAX_ATTRIBUTE_VALUE_BYTES")]
    #[arg(value_parser = units::positive_size, default_value = "64KiB")]
    pub attribute_value_bytes: usize,
    /// Identities of a profile, of users and of devices together.
    #[arg(long = "max-identities", env = "CAMEO_MAX_IDENTITIES", value_parser = units::count, default_value = "100")]
    pub identities: usize,
    /// Size of an identity's value.
    #[arg(long = "max-identity-value-bytes", env = "CAMEO_MAX_IDENTITY_VALUE_BYTES")]
    #[arg(value_parser = units::positive_size, default_value = "1KiB")]
    pub identity_value_bytes: usize,
    /// Audience memberships of a profile.
    #[arg(long = "max-audience-memberships", env = "CAMEO_MAX_AUDIENCE_MEMBERSHIPS")]
    #[arg(value_parser = units::count, default_value = "1000")]
    pub audience_memberships: usize,
    /// Attributions of a profile.
    #[arg(long = "max-attributions", env = "CAMEO_MAX_ATTRIBUTIONS")]
    #[arg(value_parser = units::count, default_value = "1000")]
    pub attributions: usize,
    /// Workspaces of the store. The first write to one more is refused as `QUOTA_EXCEEDED`.
    #[arg(long = "max-workspaces", env = "CAMEO_MAX_WORKSPACES", value_parser = units::count, default_value = "100000")]
    pub workspaces: usize,
    /// Durable subscriptions of a workspace. Creating one more is refused as `QUOTA_EXCEEDED`.
    #[arg(long = "max-subscriptions", env = "CAMEO_MAX_SUBSCRIPTIONS")]
    #[arg(value_parser = units::count, default_value = "1000")]
    pub subscriptions: usize,
    /// Size of a request, or of one record of an import, on the wire.
    #[arg(long = "max-request-bytes", env = "CAMEO_MAX_REQUEST_BYTES")]
    #[arg(value_parser = units::positive_size, default_value = "1MiB")]
    pub request_bytes: usize,
    /// Keys of one `BatchGetProfiles`.
    #[arg(long = "max-batch-keys", env = "CAMEO_MAX_BATCH_KEYS", value_parser = units::count, default_value = "1000")]
    pub batch_keys: usize,
    /// Profiles or events of one page.
    #[arg(long = "max-page-items", env = "CAMEO_MAX_PAGE_ITEMS", value_parser = units::count, default_value = "1000")]
    pub page_items: usize,
    /// Size of the profiles or events of one response. The last of a page may take it past the limit. The default
    /// leaves room for one more profile of the largest size below the 4 MiB that gRPC clients take.
    #[arg(long = "max-response-bytes", env = "CAMEO_MAX_RESPONSE_BYTES")]
    #[arg(value_parser = units::positive_size, default_value = "3MiB")]
    pub response_bytes: usize,
}
