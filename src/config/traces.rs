//! Where traces go.

use clap::Args;
use http::Uri;

/// Where traces go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceConfig {
    /// URL of the collector that gets traces, by OTLP over gRPC: `http://localhost:4317`. Without it there are none.
    #[arg(long, env = "CAMEO_OTLP_ENDPOINT", value_name = "URL", value_parser = otlp_endpoint)]
    pub otlp_endpoint: Option<Uri>,
    /// Part of the traces to record, from 0 to 1. A call that comes with a trace of its caller is recorded if its caller
    /// records that.
    #[arg(long, env = "CAMEO_TRACE_SAMPLE", value_name = "PART", value_parser = part, default_value = "1")]
    pub trace_sample: f64,
}

fn otlp_endpoint(text: &str) -> Result<Uri, String> {
    let problem = || "it is a URL such as http://localhost:4317".to_owned();
    let uri: Uri = text.parse().map_err(|_| problem())?;
    let Some(authority) = uri.authority().filter(|_| matches!(uri.scheme_str(), Some("http" | "https"))) else {
        return Err(problem());
    };
    if authority.as_str().contains('@') {
        return Err("a URL with a password shows in the list of processes".to_owned());
    }
    if authority.port_u16().is_none() || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("it has a host and a port, and no path: OTLP over gRPC, which is usually on port 4317".to_owned());
    }
    Ok(uri)
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "it is a number from 0 to 1, such as 0.1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in ["http://localhost:4317", "https://collector.example.com:443/", "http://[::1]:4317"] {
            assert!(otlp_endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost:4317",
            "http://localhost",
            "ftp://localhost:4317",
            "http://localhost:4318/v1/traces",
            "http://localhost:4317/?a=b",
            "http://ada:secret@localhost:4317",
        ] {
            assert!(otlp_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_part_is_from_0_to_1() {
        for (good, value) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)] {
            assert_eq!(part(good), Ok(value));
        }
        for bad in ["", "-0.1", "1.1", "NaN", "inf", "50%"] {
            assert!(part(bad).is_err(), "{bad}");
        }
    }
}
