//! What certificates say: who a client is, and how long the server's is valid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

/// A certificate that a client presented, and that a trusted CA has issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct ClientCertificate {
    /// Its subject alternative names, each after its kind: `dns:crm.internal`, `uri:spiffe://example.org/crm`,
    /// `email:crm@example.org`, `ip:192.0.2.1`. Names of other kinds are left out. DNS names are in lower case.
    pub names: Vec<String>,
}

impl ClientCertificate {
    /// Reads the names. A certificate that cannot be read, although it was verified, has none.
    pub fn parse(certificate: &[u8]) -> Self {
        let names = X509Certificate::from_der(certificate).ok().and_then(|(_, certificate)| {
            let extension = certificate.subject_alternative_name().ok()??;
            Some(extension.value.general_names.iter().filter_map(name).collect())
        });
        Self { names: names.unwrap_or_default() }
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("dns:{}", name.to_ascii_lowercase())),
        GeneralName::URI(uri) => Some(format!("uri:{uri}")),
        GeneralName::RFC822Name(email) => Some(format!("email:{email}")),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| format!("ip:{address}")),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into());
    v4().or_else(|_| v6()).ok()
}

/// When a certificate expires.
#[derive(Debug)]
pub(super) struct Expiry {
    /// In seconds since 1970.
    pub seconds: i64,
    /// For people.
    pub shown: String,
    pub has_passed: bool,
}

/// When a certificate expires. `None` if it cannot be read.
pub(super) fn expiry(certificate: &[u8]) -> Option<Expiry> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let expiry = certificate.validity().not_after;
    Some(Expiry { seconds: expiry.timestamp(), shown: expiry.to_string(), has_passed: expiry < ASN1Time::now() })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        expiring_in(2030, names)
    }

    fn expiring_in(year: i32, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.not_after = rcgen::date_time_ymd(year, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_stand_after_their_kind() {
        let presented = certificate(vec![
            SanType::DnsName("CRM.internal".try_into().unwrap()),
            SanType::URI("spiffe://Example.org/CRM".try_into().unwrap()),
            SanType::Rfc822Name("CRM@example.org".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::OtherName((vec![1, 2, 3], rcgen::OtherNameValue::Utf8String("x".into()))),
        ]);
        let names = [
            "dns:crm.internal",
            "uri:spiffe://Example.org/CRM",
            "email:CRM@example.org",
            "ip:192.0.2.1",
            "ip:2001:db8::1",
        ];
        assert_eq!(ClientCertificate::parse(&presented).names, names);
    }

    #[test]
    fn a_certificate_may_have_no_names() {
        for presented in [certificate(Vec::new()), Vec::new(), b"no certificate".to_vec()] {
            assert!(ClientCertificate::parse(&presented).names.is_empty());
        }
    }

    #[test]
    fn a_certificate_says_when_it_expires() {
        let later = expiry(&expiring_in(2300, Vec::new())).unwrap();
        assert_eq!(later.seconds, 10_413_878_400); // date -ud 2300-01-02 +%s
        assert!(later.shown.contains("2300") && !later.has_passed, "{later:?}");
        assert!(expiry(&expiring_in(2020, Vec::new())).unwrap().has_passed);
        assert!(expiry(b"no certificate").is_none());
    }
}
