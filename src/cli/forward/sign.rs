//! Signatures of Standard Webhooks: HMAC-SHA256 with a secret that the receiver knows too.
//!
//! Several secrets make several signatures. That is how a secret is rotated: add the new one, tell the receivers, remove
//! the old one. Secrets come from a file or from the environment, never from the command line, which others can see.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// How many bytes a fresh secret has.
const FRESH: usize = 32;
/// Each secret adds a signature to a header, and receivers bound their headers.
const MAX_SECRETS: usize = 10;

/// One secret.
#[derive(Debug, Clone)]
struct Secret(hmac::Key);

impl Secret {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let bytes = text.strip_prefix(PREFIX).and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
        let bytes = bytes.filter(|bytes| (24..=64).contains(&bytes.len())); // What Standard Webhooks asks for.
        let bytes = bytes.ok_or_else(|| anyhow!("a secret is {PREFIX} and 24 to 64 bytes in base64"))?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

/// Makes a new secret.
pub fn fresh() -> String {
    format!("{PREFIX}{}", BASE64_STANDARD.encode(rand::random::<[u8; FRESH]>()))
}

/// The secrets that sign, newest first. None of them: requests are not signed.
pub struct Secrets {
    file: Option<PathBuf>,
    current: Mutex<Current>,
}

struct Current {
    text: String,
    secrets: Vec<Secret>,
}

impl Secrets {
    /// Requests are not signed.
    pub fn none() -> Self {
        Self::new(None, String::new(), Vec::new())
    }

    /// The one secret of the environment.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn one(text: &str) -> anyhow::Result<Self> {
        Ok(Self::new(None, String::new(), vec![Secret::parse(text.trim())?]))
    }

    /// The secrets of a file, one in a line.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no secret or a malformed one.
    pub fn of_file(file: PathBuf) -> anyhow::Result<Self> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
        let secrets = parse(&text).with_context(|| name)?;
        Ok(Self::new(Some(file), text, secrets))
    }

    fn new(file: Option<PathBuf>, text: String, secrets: Vec<Secret>) -> Self {
        Self { file, current: Mutex::new(Current { text, secrets }) }
    }

    /// The value of `webhook-signature`: a signature for each secret. None if requests are not signed.
    pub fn signatures(&self, id: &str, timestamp: u64, body: &[u8]) -> Option<String> {
        let mut current = self.current.lock().expect("no holder of this lock panics");
        self.refresh(&mut current);
        let mut signed = format!("{id}.{timestamp}.").into_bytes();
        signed.extend_from_slice(body);
        let mut signatures = String::new();
        for Secret(key) in &current.secrets {
            let gap = if signatures.is_empty() { "" } else { " " };
            let signature = BASE64_STANDARD.encode(hmac::sign(key, &signed));
            write!(signatures, "{gap}v1,{signature}").expect("a string takes everything");
        }
        (!signatures.is_empty()).then_some(signatures)
    }

    /// Reads the file again. It is small, and its content tells a change more reliably than its time does. A file that
    /// is missing or malformed, as one that is being written, leaves the secrets as they are.
    fn refresh(&self, current: &mut Current) {
        let Some(file) = &self.file else { return };
        let Ok(text) = std::fs::read_to_string(file) else { return };
        if text == current.text {
            return;
        }
        match parse(&text) {
            Ok(secrets) => {
                tracing::info!(secrets = secrets.len(), "the secrets changed");
                current.secrets = secrets;
            }
            Err(cause) => tracing::warn!(%cause, "the file of secrets is malformed: the earlier secrets stay in force"),
        }
        current.text = text;
    }
}

/// Lines that are empty or begin with `#` are skipped.
fn parse(text: &str) -> anyhow::Result<Vec<Secret>> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let secrets = lines.map(|(at, line)| Secret::parse(line).with_context(|| format!("line {}", at + 1)));
    let secrets = secrets.collect::<anyhow::Result<Vec<_>>>()?;
    match secrets.len() {
        0 => bail!("it holds no secret: `cameo forward --new-secret` prints one"),
        1..=MAX_SECRETS => Ok(secrets),
        _ => bail!("it holds more than {MAX_SECRETS} secrets"),
    }
}

#[cfg(test)]
mod tests {
    use standardwebhooks::Webhook;

    use super::*;

    const BODY: &[u8] = b"{\"id\":1}";

    fn verifies(secret: &str, signatures: &str) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", "event-1".parse().unwrap());
        headers.insert("webhook-timestamp", now.to_string().parse().unwrap());
        headers.insert("webhook-signature", signatures.parse().unwrap());
        Webhook::new(secret).unwrap().verify(BODY, &headers).is_ok()
    }

    fn signed(secrets: &Secrets) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        secrets.signatures("event-1", now, BODY).unwrap()
    }

    /// The example of the specification's own test suites.
    #[test]
    fn a_signature_is_that_of_the_reference() {
        let secrets = Secrets::one("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secrets.signatures("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn fresh_secrets_differ_and_sign() {
        let (one, two) = (fresh(), fresh());
        assert_ne!(one, two);
        let signatures = signed(&Secrets::one(&one).unwrap());
        assert!(verifies(&one, &signatures));
        assert!(!verifies(&two, &signatures));
        assert_eq!(Secrets::none().signatures("event-1", 0, BODY), None);
    }

    /// Each step of a rotation is seen by the next signature, and a broken file changes nothing.
    #[test]
    fn secrets_rotate_with_their_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (old, new) = (fresh(), fresh());
        std::fs::write(&file, format!("# ours\n{old}\n")).unwrap();
        let secrets = Secrets::of_file(file.path().to_owned()).unwrap();
        assert!(verifies(&old, &signed(&secrets)));

        std::fs::write(&file, format!("{new}\n\n{old}\n")).unwrap();
        let both = signed(&secrets);
        assert!(verifies(&old, &both) && verifies(&new, &both));
        assert!(verifies(&new, both.split(' ').next().unwrap()), "the newest is the first");

        for broken in [new[..20].to_owned(), String::new(), format!("{new}\nrubbish")] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(signed(&secrets).split(' ').count(), 2);
        }
        std::fs::write(&file, &new).unwrap();
        let last = signed(&secrets);
        assert!(verifies(&new, &last) && !verifies(&old, &last));
        std::fs::remove_file(&file).unwrap();
        assert!(verifies(&new, &signed(&secrets)));
    }

    #[test]
    fn malformed_secrets_are_refused_without_being_shown() {
        let short = format!("whsec_{}", BASE64_STANDARD.encode([7; 23]));
        for text in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!", &*short] {
            let refusal = format!("{:#}", Secrets::one(text).err().unwrap());
            assert_eq!(refusal, "a secret is whsec_ and 24 to 64 bytes in base64", "{text}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("{}\nhunter2", fresh())).unwrap();
        let refusal = format!("{:#}", Secrets::of_file(file.path().to_owned()).err().unwrap());
        assert!(refusal.contains("line 2") && !refusal.contains("hunter2"), "{refusal}");
        std::fs::write(&file, (0..=MAX_SECRETS).map(|_| fresh() + "\n").collect::<String>()).unwrap();
        assert!(Secrets::of_file(file.path().to_owned()).is_err());
    }
}
