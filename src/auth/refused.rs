//! Why a call is not authenticated, and why the credentials of a server cannot be used.

use super::CallerError;
use super::watched::FileError;

/// Why it is not known who makes a call. No message holds any part of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// The call has no credential.
    #[error("the call has no credential: send `authorization: Bearer <token>`")]
    Missing,
    /// The token is neither a static token nor a JWT, or lacks a part that it must have.
    #[error("the token is malformed")]
    Malformed,
    /// The token is larger than [`super::TOKEN_BYTES`].
    #[error("the token is larger than 8 KiB")]
    TooLarge,
    /// The static token or the certificate is of no caller, or was revoked.
    #[error("the credential is unknown, or was revoked")]
    Unknown,
    /// The credential was valid once.
    #[error("the credential has expired")]
    Expired,
    /// The JWT will be valid later, if the clocks agree.
    #[error("the token is not valid yet: check the clocks of the server and of the issuer")]
    NotYetValid,
    /// The JWT was changed, or signed with another key.
    #[error("the signature of the token is wrong")]
    Signature,
    /// The JWT has another algorithm than its key, or one that is not accepted.
    #[error("the token must be signed with RS256, ES256 or EdDSA, by a key for that algorithm")]
    Algorithm,
    /// The JWT is of another issuer.
    #[error("the token is not of the issuer that this server trusts")]
    Issuer,
    /// The JWT is for another server.
    #[error("the token is not for the audience of this server")]
    Audience,
    /// The key that signed the JWT is not known.
    #[error("the key of the token is unknown")]
    UnknownKey,
    /// What the JWT says of its caller makes no caller.
    #[error("the token names no caller: {0}")]
    Claims(CallerError),
    /// The keys that verify JWTs have not been fetched yet.
    #[error("the keys that verify tokens are not available: retry later")]
    Unavailable,
    /// The key of the JWT is not known, and as many calls as may do so wait until it is fetched.
    #[error("too many calls wait for the keys that verify tokens: retry later")]
    Crowded,
}

/// Why a server cannot authenticate as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The callers file cannot be used.
    #[error("--callers: {0}. `cameo token create` makes such a file")]
    Callers(FileError),
    /// The file with the keys of JWTs cannot be used.
    #[error("--jwks: {0}. It must be a JWK set, as the identity provider publishes it")]
    Jwks(FileError),
    /// A JWT of any issuer, or for any other service, would be accepted.
    #[error("--jwks needs --jwt-issuer and --jwt-audience, so that tokens of others are not accepted")]
    Incomplete,
    /// The settings of JWTs have no effect.
    #[error("--jwt-issuer and --jwt-audience need --jwks, the keys that verify the tokens")]
    WithoutKeys,
    /// The keys are fetched over https, and nothing says whom to trust.
    #[error("--jwks: this system trusts no certificates: install them, or name a file of them in SSL_CERT_FILE")]
    NoCertificates,
}
