//! What `/metrics` says, read by the rules of the Prometheus text format. It is stricter than a scraper must be: every
//! sample follows the type of its family.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{HttpResponse, http_request};

/// The metrics of one scrape.
#[derive(Debug)]
pub struct Exposition {
    /// The type of each family, by its name.
    pub types: BTreeMap<String, String>,
    /// The value of each sample, by its name and labels as they are written.
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// Scrapes a server.
    pub async fn scrape(addr: SocketAddr) -> Self {
        let response = ops(addr, "GET", "/metrics", &[]).await;
        assert_eq!(response.status, 200);
        Self::parse(std::str::from_utf8(&response.body).unwrap())
    }

    fn parse(text: &str) -> Self {
        let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').unwrap();
                name.clone_into(&mut family);
                assert!(types.insert(family.clone(), kind.to_owned()).is_none(), "{name} has one type");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let suffix = name.strip_prefix(&*family).unwrap_or_else(|| panic!("{line} belongs to {family}"));
                let is_histogram = types[&family] == "histogram";
                assert!(suffix.is_empty() != is_histogram, "{line}");
                assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line} stands once");
            }
        }
        Self { types, samples }
    }

    /// The value of a sample, such as `cameo_commands_total{outcome="written"}`.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    /// Asserts the values of samples.
    #[track_caller]
    pub fn assert(&self, expected: &[(&str, f64)]) {
        let found: Vec<_> = expected.iter().map(|(series, _)| (*series, self.value(series))).collect();
        assert_eq!(found, expected);
    }

    /// The samples of a family, and their values.
    pub fn family(&self, name: &str) -> BTreeMap<&str, f64> {
        let labelled = format!("{name}{{");
        let samples = self.samples.iter().filter(|(series, _)| *series == name || series.starts_with(&labelled));
        samples.map(|(series, value)| (&**series, *value)).collect()
    }
}

/// Sends a request to the listener for operators.
pub async fn ops(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpResponse {
    let mut request = hyper::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http_request(addr, request.body(String::new()).unwrap()).await
}
