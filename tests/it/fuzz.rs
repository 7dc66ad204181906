//! The [fuzz targets](../../fuzz/README.md), each with its committed seeds, so that they cannot rot between two runs of
//! the fuzzer. A crash that was mended becomes a seed.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs all seeds. The path of one that breaks a property is printed before the panic.
fn run_all(target: &str, run: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(!seeds.is_empty());
    for (path, seed) in seeds {
        println!("{}", path.display());
        run(&seed);
    }
}

#[test]
fn the_requests_of_the_seeds_are_served() {
    run_all("requests", targets::requests::run);
}

#[test]
fn the_http_requests_of_the_seeds_are_served() {
    run_all("http_query", targets::http_query::run);
}

#[test]
fn the_cursors_of_the_seeds_print_as_they_were_given() {
    run_all("cursor", targets::cursor::run);
}

#[test]
fn the_page_tokens_of_the_seeds_belong_to_one_list() {
    run_all("page_token", targets::page_token::run);
}

#[test]
fn the_masks_of_the_seeds_leave_what_they_name() {
    run_all("mask", targets::mask::run);
}

#[test]
fn the_expressions_of_the_seeds_are_evaluated_in_time() {
    run_all("expression", targets::expression::run);
}

#[test]
fn the_tokens_of_the_seeds_are_refused() {
    run_all("jwt", targets::jwt::run);
}

/// A new RPC needs a seed: without one, the fuzzer would hardly find its name.
#[test]
fn every_rpc_with_input_has_a_seed() {
    let seeds = seeds("requests");
    for name in targets::requests::METHODS.keys().filter(|name| *name != targets::requests::WITHOUT_INPUT) {
        let line = format!("{name}\n");
        assert!(seeds.iter().any(|(_, seed)| seed.starts_with(line.as_bytes())), "{name} has no seed");
    }
}
