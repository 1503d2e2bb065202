//! The design's invariants as checks: what a compiler cannot see.

use anyhow::{Context, bail};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this wants to be two.
const MAX_LINES: usize = 800;

/// Cores: synchronous functions from values to values. No runtime, no files, no clock, no randomness.
const PURE: &[&str] = &[
    "crates/meta/src",
    "crates/schema/src",
    "crates/patch/src",
    "crates/kinds/src",
    "crates/store/src/embedded/index.rs",
    "crates/store/src/embedded/record.rs",
    "crates/auth/src/authorizer.rs",
    "crates/auth/src/node",
    "crates/auth/src/rbac",
    "crates/admission/src",
    "crates/controllers/src/clusterrole.rs",
    "crates/controllers/src/cronjob",
    "crates/controllers/src/deployment",
    "crates/controllers/src/disruption",
    "crates/controllers/src/endpoints",
    "crates/controllers/src/ephemeral.rs",
    "crates/controllers/src/gc/decide.rs",
    "crates/controllers/src/job",
    "crates/controllers/src/node",
    "crates/controllers/src/persistentvolume",
    "crates/controllers/src/plan.rs",
    "crates/controllers/src/replicaset.rs",
    "crates/controllers/src/serviceaccount.rs",
    "crates/controllers/src/ttlafterfinished.rs",
    "crates/scheduler/src/core.rs",
    "crates/scheduler/src/cycle.rs",
    "crates/scheduler/src/framework.rs",
    "crates/scheduler/src/plugins",
    "crates/scheduler/src/preemption.rs",
    "crates/scheduler/src/queue.rs",
    "crates/scheduler/src/snapshot.rs",
    "crates/scheduler/src/volumes.rs",
    "crates/kubelet/src/admission.rs",
    "crates/kubelet/src/container_config.rs",
    "crates/kubelet/src/env.rs",
    "crates/kubelet/src/node_status/conditions.rs",
    "crates/kubelet/src/qos.rs",
    "crates/kubelet/src/security.rs",
    "crates/kubelet/src/sync",
    "crates/netfilter/src/diff.rs",
    "crates/netfilter/src/model.rs",
    "crates/proxy/src/rules.rs",
    "crates/proxy/src/service.rs",
    "crates/network/src/cni.rs",
    "crates/network/src/rules.rs",
    "crates/dns/src/answer.rs",
    "crates/dns/src/zone.rs",
];

/// What a core may not touch.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "rand::",
    "Uuid::new",
    "std::env::",
    "async fn",
];

/// Only these open a store (invariant 1).
const MAY_USE_STORE: &[&str] = &["apiserver", "ironclad", "store"];

/// Words that say a thing is not finished.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "not yet implemented"];

struct Source {
    path: PathBuf,
    /// Without its tests; every line keeps its number.
    code: String,
    lines: usize,
}

pub fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut found = crate_order(&root)?;
    for source in sources(&root)? {
        found.extend(check(&source));
    }
    let gone = PURE.iter().filter(|p| !root.join(p).exists());
    found.extend(gone.map(|p| format!("{p}: listed as a core, but is not there")));
    found.extend(documented(&root)?);
    if found.is_empty() {
        println!("tidy: everything holds");
        return Ok(());
    }
    for line in &found {
        eprintln!("{line}");
    }
    bail!("{} places do not hold to the design", found.len())
}

fn crates(root: &Path) -> anyhow::Result<Vec<String>> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let named = |line: &str| {
        let (name, path) = line.split_once(" = { path = \"crates/")?;
        (path.strip_suffix("\" }")? == name).then(|| name.to_owned())
    };
    Ok(manifest.lines().filter_map(named).collect())
}

/// A crate uses only crates above its own in the workspace's list.
fn crate_order(root: &Path) -> anyhow::Result<Vec<String>> {
    let order = crates(root)?;
    let mut found = Vec::new();
    for (position, name) in order.iter().enumerate() {
        let path = root.join("crates").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let Some(used) = line.split(['.', ' ', '=']).next().filter(|u| order.iter().any(|o| o == u))
            else {
                continue;
            };
            if section == "[dependencies]" && order[position..].iter().any(|o| o == used) {
                found.push(format!("{}: {name} uses {used}, which stands below it", path.display()));
            }
            if section == "[dependencies]" && used == "store" && !MAY_USE_STORE.contains(&name.as_str()) {
                found.push(format!("{}: only the API server opens the store", path.display()));
            }
        }
    }
    Ok(found)
}

fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    fn walk(directory: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "tests", "benches", "testdata"].contains(&name.as_str()) {
                    walk(&path, out)?;
                }
            } else if name.ends_with(".rs") {
                out.push(path);
            }
        }
        Ok(())
    }
    let mut paths = Vec::new();
    walk(&root.join("crates"), &mut paths)?;
    paths.sort();
    let mut of_tests = HashSet::new();
    let mut read = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (code, modules) = without_tests(&text);
        let owner = match path.file_stem().and_then(|s| s.to_str()) {
            Some("lib" | "main" | "mod") | None => path.with_file_name(""),
            Some(_) => path.with_extension(""),
        };
        for module in modules {
            of_tests.insert(owner.join(format!("{module}.rs")));
            of_tests.insert(owner.join(module).join("mod.rs"));
        }
        read.push((path, code, text.lines().count()));
    }
    read.retain(|(path, ..)| !of_tests.contains(path));
    let source = |(path, code, lines): (PathBuf, String, usize)| {
        let path = path.strip_prefix(root).map(Path::to_owned).unwrap_or(path);
        Source { path, code, lines }
    };
    Ok(read.into_iter().map(source).collect())
}

/// What of a file is no test, and the modules it names that are. An item behind `#[cfg(test)]` becomes empty
/// lines; where it ends follows from rustfmt's indentation.
fn without_tests(text: &str) -> (String, Vec<&str>) {
    let (mut code, mut modules) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(indent) = line.strip_suffix("#[cfg(test)]").filter(|i| i.trim().is_empty()) else {
            code.push_str(line);
            code.push('\n');
            continue;
        };
        code.push('\n');
        let mut in_block = false;
        for line in lines.by_ref() {
            code.push('\n');
            let Some(item) = line.strip_prefix(indent) else { continue };
            if let Some((_, module)) = item.strip_suffix(';').and_then(|i| i.split_once("mod ")) {
                modules.push(module);
            }
            if item.starts_with([' ', '#', '/']) {
                continue;
            }
            let last = if in_block { item.starts_with('}') } else { item.ends_with(['}', ';', ',']) };
            if last {
                break;
            }
            in_block |= item.ends_with('{');
        }
    }
    (code, modules)
}

fn check(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let at = |line: usize, what: &str| format!("{}:{}: {what}", source.path.display(), line + 1);
    let generated = source.path.starts_with("crates/schema/build/roots.rs");
    if source.lines > MAX_LINES && !generated {
        found.push(at(0, &format!("{} lines; past {MAX_LINES} a file wants to be two", source.lines)));
    }
    if !source.code.starts_with("//!") && !generated {
        found.push(at(0, "a file begins with what it is for (//!)"));
    }
    let own = source.path.starts_with("crates/xtask");
    let pure = PURE.iter().any(|p| source.path.starts_with(p));
    for (number, line) in source.code.lines().enumerate() {
        if line.trim_start().starts_with("//") || own {
            continue;
        }
        if line.contains(".unwrap()") && !source.path.starts_with("crates/testkit") {
            found.push(at(number, "unwrap() outside tests: an invariant is expect(\"why it holds\")"));
        }
        if let Some(word) = UNFINISHED.iter().find(|w| line.contains(**w)) {
            found.push(at(number, &format!("unfinished: {word}")));
        }
        if let Some(word) = IMPURE.iter().find(|w| pure && line.contains(**w)) {
            found.push(at(number, &format!("a pure core uses {word}")));
        }
    }
    found
}

/// Every crate stands in the map.
fn documented(root: &Path) -> anyhow::Result<Vec<String>> {
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md, the map")?;
    let missing = |c: &String| !map.contains(&format!("`{c}`"));
    let lines = crates(root)?.into_iter().filter(missing);
    Ok(lines.map(|c| format!("ARCHITECTURE.md: the crate {c} is not on the map")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str, modules: &[&str]) {
        let (found, named) = without_tests(text);
        assert_eq!(found.split_whitespace().collect::<Vec<_>>().join(" "), code, "{text}");
        assert_eq!(found.lines().count(), text.lines().count(), "{text}");
        assert_eq!(named, modules, "{text}");
    }

    #[test]
    fn tests_are_cut_from_a_file() {
        check("a();\n#[cfg(test)]\nmod tests {\n    x(\"\ny,\n\");\n}\nb();\n", "a(); b();", &[]);
        check("#[cfg(test)]\npub(crate) mod sim;\nmod b;\n", "mod b;", &["sim"]);
        check(
            "m! {\n    #[cfg(test)]\n    #[inline]\n    fn x() {\n        a;\n    }\n    b\n}\n",
            "m! { b }",
            &[],
        );
        check("#[cfg(test)]\nuse a::{\n    b,\n};\nc;\n", "c;", &[]);
    }
}
