//! `cargo xtask schema --from <kubernetes source>`: distils the facts of the API into `crates/schema/data/`.
//!
//! Three sources are read and joined: `api/openapi-spec/swagger.json` (definitions, fields, list and map
//! markers), `api/openapi-spec/v3/*.json` (defaults) and the Go types' struct tags (protobuf numbers, pointers,
//! enums). Every protobuf number is checked against `generated.proto`. Only facts are written, no prose.
//!
//! The format is line based; `crates/schema/build.rs` reads it:
//! ```text
//! type <definition> [atomic]
//! gvk <group or -> <version> <kind>
//! - <json name> <protobuf path or 0> <type> [req] [ptr] [omit] [key=value ...]
//! ```

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a definition's Go package lies below the source root.
const PACKAGES: &[(&str, &str)] = &[
    ("io.k8s.api.", "staging/src/k8s.io/api/"),
    ("io.k8s.apimachinery.", "staging/src/k8s.io/apimachinery/"),
    ("io.k8s.apiextensions-apiserver.", "staging/src/k8s.io/apiextensions-apiserver/"),
    ("io.k8s.kube-aggregator.", "staging/src/k8s.io/kube-aggregator/"),
];

/// Definitions that are not structs on the wire; each has a field type of its own.
const SPECIAL: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fieldsv1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "raw"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intorstring"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "json"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "schemaorarray"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "schemaorbool"),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        "schemaorstrings",
    ),
];

/// Types served by the API machinery that the document does not list.
const EXTRA: &str = "\
type io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata
gvk meta.k8s.io v1 PartialObjectMetadata
- apiVersion 0 string omit
- kind 0 string omit
- metadata 1 io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta omit
type io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList
gvk meta.k8s.io v1 PartialObjectMetadataList
- apiVersion 0 string omit
- items 2 [io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata] req
- kind 0 string omit
- metadata 1 io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta omit
";

/// Named Go slices of strings: on the protobuf wire each is a message `{repeated string items = 1}`.
const STRING_ITEMS: &[&str] = &["Verbs", "ExtraValue"];

#[derive(Debug, Clone, Default)]
struct GoField {
    go_type: String,
    number: u32,
    omit: bool,
}

#[derive(Debug, Default)]
struct GoStruct {
    fields: BTreeMap<String, GoField>,
    /// Embedded structs: type name and protobuf number (0: their fields are written in place).
    inlined: Vec<(String, u32)>,
}

#[derive(Debug, Default)]
struct GoPackage {
    structs: BTreeMap<String, GoStruct>,
    enums: BTreeMap<String, Vec<String>>,
    /// Types that are another version's under this name: name -> (sibling package, name there).
    aliases: BTreeMap<String, (String, String)>,
    /// message name -> protobuf number -> declared type
    proto: BTreeMap<String, BTreeMap<u32, String>>,
}

/// Reads the sources below `from` and writes the data file to `out`.
///
/// # Errors
/// A file that cannot be read, a field whose protobuf number is unknown or contradicts `generated.proto`.
pub fn run(from: &Path, out: &Path) -> Result<()> {
    let swagger = read_json(&from.join("api/openapi-spec/swagger.json"))?;
    let definitions = swagger["definitions"].as_object().context("swagger.json has no definitions")?;
    let defaults = read_defaults(&from.join("api/openapi-spec/v3"))?;
    let mut packages: BTreeMap<PathBuf, GoPackage> = BTreeMap::new();
    let mut text =
        String::from("# Facts of the Kubernetes API, written by `cargo xtask schema`; do not edit.\n");
    for (name, definition) in definitions {
        if SPECIAL.iter().any(|(special, _)| special == name) {
            continue;
        }
        let dir = package_dir(from, name)?;
        if !packages.contains_key(&dir) {
            packages.insert(dir.clone(), read_package(&dir)?);
        }
        let package = &packages[&dir];
        write_type(&mut text, name, definition, package, defaults.get(name), swagger.get("definitions"))
            .with_context(|| format!("definition {name}"))?;
    }
    text.push_str(EXTRA);
    fs::write(out, text).with_context(|| format!("write {}", out.display()))
}

fn read_json(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
}

/// definition -> field -> default, from the v3 documents (the v2 document leaves defaults out).
fn read_defaults(dir: &Path) -> Result<BTreeMap<String, BTreeMap<String, Value>>> {
    let mut defaults: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let document = read_json(&entry?.path())?;
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = property.get("default") {
                    defaults.entry(name.clone()).or_default().insert(field.clone(), default.clone());
                }
            }
        }
    }
    Ok(defaults)
}

fn package_dir(from: &Path, definition: &str) -> Result<PathBuf> {
    let (package, _) = definition.rsplit_once('.').context("a definition has a package")?;
    for (prefix, dir) in PACKAGES {
        if let Some(rest) = package.strip_prefix(prefix) {
            return Ok(from.join(dir).join(rest.replace('.', "/")));
        }
    }
    bail!("no source directory known for {definition}")
}

fn read_package(dir: &Path) -> Result<GoPackage> {
    let mut package = GoPackage::default();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if file == "generated.proto" {
            read_proto(&fs::read_to_string(&path)?, &mut package);
        } else if file.ends_with(".go")
            && !file.ends_with("_test.go")
            && !file.starts_with("zz_generated")
            && file != "generated.pb.go"
        {
            read_go(&fs::read_to_string(&path)?, &mut package);
        }
    }
    for (name, (sibling, target)) in std::mem::take(&mut package.aliases) {
        let sibling = dir.with_file_name(sibling);
        if sibling.is_dir() && sibling != dir {
            let mut other = read_package(&sibling)?;
            if let Some(found) = other.structs.remove(&target) {
                package.structs.insert(name, found);
            }
        }
    }
    Ok(package)
}

fn read_proto(text: &str, package: &mut GoPackage) {
    let mut message: Option<&str> = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("message ") {
            message = rest.split_whitespace().next();
        } else if line == "}" {
            message = None;
        } else if let (Some(message), Some((declaration, number))) = (message, line.rsplit_once(" = ")) {
            let Ok(number) = number.trim_end_matches(';').parse() else { continue };
            let Some((kind, _)) = declaration.rsplit_once(' ') else { continue };
            if !line.starts_with("//") {
                package.proto.entry(message.to_owned()).or_default().insert(number, kind.to_owned());
            }
        }
    }
}

fn read_go(text: &str, package: &mut GoPackage) {
    let mut current: Option<String> = None;
    let mut enum_marker = false;
    let mut enums: Vec<String> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with("//") {
            enum_marker |= trimmed == "// +enum";
            continue;
        }
        if let Some(rest) = line.strip_prefix("type ") {
            let mut words = rest.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            match words.next() {
                Some("struct") => {
                    package.structs.entry(name.clone()).or_default();
                    current = if rest.ends_with("{}") { None } else { Some(name) };
                }
                Some("string") if enum_marker => enums.push(name),
                Some(other) => {
                    let target = if other == "=" { words.next().unwrap_or_default() } else { other };
                    if let Some((sibling, target)) = target.split_once('.') {
                        package.aliases.insert(name, (sibling.to_owned(), target.to_owned()));
                    }
                }
                _ => {}
            }
        } else if line == "}" {
            current = None;
        } else if let Some(name) = &current {
            read_go_field(trimmed, package.structs.entry(name.clone()).or_default());
        } else if let Some((left, value)) = trimmed.trim_start_matches("const ").split_once('=') {
            let mut words = left.split_whitespace();
            if let (Some(_), Some(kind), None) = (words.next(), words.next(), words.next())
                && let Some(value) = value.trim().strip_prefix('"').and_then(|v| v.split('"').next())
            {
                package.enums.entry(kind.to_owned()).or_default().push(value.to_owned());
            }
        }
        if !trimmed.is_empty() {
            enum_marker = false;
        }
    }
    let marked = package.structs.entry("+enum".to_owned()).or_default();
    for name in enums {
        marked.inlined.push((name, 0));
    }
}

fn read_go_field(line: &str, target: &mut GoStruct) {
    let Some((declaration, tags)) = line.split_once('`') else { return };
    let Some(json) = tag(tags, "json") else { return };
    let number =
        tag(tags, "protobuf").and_then(|t| t.split(',').nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let mut options = json.split(',');
    let name = options.next().unwrap_or_default();
    let options: Vec<&str> = options.collect();
    match words.as_slice() {
        [embedded] if options.contains(&"inline") || name.is_empty() => {
            target.inlined.push(((*embedded).to_owned(), number));
        }
        [_, embedded] if options.contains(&"inline") => target.inlined.push(((*embedded).to_owned(), number)),
        [.., go_type] if name != "-" && !name.is_empty() => {
            let omit = options.contains(&"omitempty") || options.contains(&"omitzero");
            target.fields.insert(name.to_owned(), GoField { go_type: (*go_type).to_owned(), number, omit });
        }
        _ => {}
    }
}

fn tag<'a>(tags: &'a str, name: &str) -> Option<&'a str> {
    let start = tags.find(&format!("{name}:\""))? + name.len() + 2;
    tags[start..].split('"').next()
}

/// A field of a struct or of what it embeds, with the path of protobuf numbers that leads to it.
fn find_field(package: &GoPackage, go_struct: &str, json: &str) -> Option<(Vec<u32>, GoField, String)> {
    let found = package.structs.get(go_struct)?;
    if let Some(field) = found.fields.get(json) {
        return Some((vec![field.number], field.clone(), go_struct.to_owned()));
    }
    for (embedded, number) in &found.inlined {
        if embedded.ends_with("TypeMeta") {
            if json == "apiVersion" || json == "kind" {
                let field = GoField { go_type: "string".to_owned(), number: 0, omit: true };
                return Some((vec![0], field, "TypeMeta".to_owned()));
            }
        } else if let Some((mut path, field, owner)) = find_field(package, embedded, json) {
            if *number != 0 {
                path.insert(0, *number);
            }
            return Some((path, field, owner));
        }
    }
    None
}

fn write_type(
    text: &mut String,
    name: &str,
    definition: &Value,
    package: &GoPackage,
    defaults: Option<&BTreeMap<String, Value>>,
    definitions: Option<&Value>,
) -> Result<()> {
    let go_name = name.rsplit('.').next().unwrap_or_default();
    let atomic = definition["x-kubernetes-map-type"] == "atomic";
    writeln!(text, "type {name}{}", if atomic { " atomic" } else { "" })?;
    for gvk in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
        let group = gvk["group"].as_str().filter(|g| !g.is_empty()).unwrap_or("-");
        let (version, kind) = (gvk["version"].as_str().unwrap_or("-"), gvk["kind"].as_str().unwrap_or("-"));
        writeln!(text, "gvk {group} {version} {kind}")?;
    }
    let required: Vec<&str> =
        definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (json, property) in definition["properties"].as_object().into_iter().flatten() {
        let (path, go, owner) =
            find_field(package, go_name, json).with_context(|| format!("no Go field for {json}"))?;
        check_proto(package, go_name, &path, &owner)?;
        let path = path.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
        write!(text, "- {json} {path} {}", field_type(property, &go)?)?;
        if required.contains(&json.as_str()) {
            text.push_str(" req");
        }
        if go.go_type.starts_with('*') {
            text.push_str(" ptr");
        }
        if go.omit {
            text.push_str(" omit");
        }
        write_markers(text, property, definitions)?;
        let bare = go.go_type.trim_start_matches(['*', '[', ']']);
        if property["type"] == "string" && bare != "string" && bare != "byte" && bare != "[]byte" {
            write!(text, " go={}", bare.rsplit('.').next().unwrap_or(bare))?;
        }
        if package.structs.get("+enum").is_some_and(|marked| marked.inlined.iter().any(|(e, _)| e == bare)) {
            let mut values = package.enums.get(bare).cloned().unwrap_or_default();
            values.sort();
            values.dedup();
            write!(text, " enum={}", serde_json::to_string(&values)?.replace(' ', "\u{a0}"))?;
        }
        if let Some(default) = defaults.and_then(|d| d.get(json)) {
            write!(text, " default={default}")?;
        }
        text.push('\n');
    }
    Ok(())
}

fn write_markers(text: &mut String, property: &Value, definitions: Option<&Value>) -> Result<()> {
    if let Some(list) = property["x-kubernetes-list-type"].as_str() {
        write!(text, " list={list}")?;
        let keys: Vec<&str> = property["x-kubernetes-list-map-keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !keys.is_empty() {
            write!(text, " keys={}", keys.join(","))?;
        }
    }
    if let Some(map) = property["x-kubernetes-map-type"].as_str() {
        write!(text, " map={map}")?;
    }
    if let Some(strategy) = property["x-kubernetes-patch-strategy"].as_str() {
        write!(text, " patch={strategy}")?;
    }
    if let Some(key) = property["x-kubernetes-patch-merge-key"].as_str() {
        write!(text, " mergekey={key}")?;
    }
    if let Some(reference) = property["$ref"].as_str() {
        let name = reference.trim_start_matches("#/definitions/");
        if definitions.is_some_and(|d| d.get(name).is_none()) {
            bail!("reference to the unknown definition {name}");
        }
    }
    Ok(())
}

fn check_proto(package: &GoPackage, go_name: &str, path: &[u32], owner: &str) -> Result<()> {
    let (Some(first), Some(last)) = (path.first(), path.last()) else { bail!("empty protobuf path") };
    if *last == 0 || package.proto.is_empty() {
        return Ok(());
    }
    let declared =
        |message: &str, number: &u32| package.proto.get(message).is_some_and(|m| m.contains_key(number));
    let foreign = !package.proto.contains_key(owner);
    if !declared(go_name, first) || !(foreign || declared(owner, last)) {
        bail!("protobuf path {path:?} of {go_name} is not in generated.proto");
    }
    Ok(())
}

fn field_type(property: &Value, go: &GoField) -> Result<String> {
    if let Some(reference) = property["$ref"].as_str() {
        let name = reference.trim_start_matches("#/definitions/");
        let special = SPECIAL.iter().find(|(special, _)| *special == name).map(|(_, code)| *code);
        return Ok(special.unwrap_or(name).to_owned());
    }
    let format = property["format"].as_str();
    Ok(match property["type"].as_str() {
        Some("string") if format == Some("byte") => "bytes".to_owned(),
        Some("string") => "string".to_owned(),
        Some("boolean") => "bool".to_owned(),
        Some("number") => "double".to_owned(),
        Some("integer") => format.unwrap_or("int64").to_owned(),
        Some("array") => {
            let items = field_type(&property["items"], go)?;
            let named = go.go_type.rsplit([']', '.']).next().unwrap_or_default();
            if items == "string" && STRING_ITEMS.contains(&named) {
                "stringitems".to_owned()
            } else {
                format!("[{items}]")
            }
        }
        Some("object") => match property.get("additionalProperties") {
            Some(values) => format!("{{{}}}", field_type(values, go)?),
            None => "json".to_owned(),
        },
        other => bail!("unknown type {other:?}"),
    })
}

/// Writes the list of kinds whose descriptions the schema crate's build takes from `k8s-openapi`.
///
/// # Errors
/// A data file that cannot be read or an output that cannot be written.
pub fn write_roots(data: &Path, out: &Path) -> Result<()> {
    let facts = fs::read_to_string(data).with_context(|| format!("read {}", data.display()))?;
    let mut text = String::from(
        "//! Kinds whose descriptions are taken from `k8s-openapi`; written by `cargo xtask schema`, do not edit.\n\n\
         use schemars::SchemaGenerator;\n\n\
         /// Makes the generator define each kind and what it refers to.\n\
         pub fn define(generator: &mut SchemaGenerator) {\n",
    );
    let mut name = "";
    let mut last = "";
    for line in facts.lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            name = rest.split(' ').next().unwrap_or_default();
        }
        let served = line.starts_with("gvk ") || name.ends_with(".version.Info");
        let left_out = name.ends_with("List") && !name.contains("meta.v1.API")
            || name.ends_with(".WatchEvent")
            || name.ends_with(".PartialObjectMetadata");
        if served && name != last && !left_out {
            let path = name.trim_start_matches("io.k8s.").replace('-', "_").replace('.', "::");
            writeln!(text, "    generator.subschema_for::<k8s_openapi::{path}>();")?;
            last = name;
        }
    }
    text.push_str("}\n");
    fs::write(out, text).with_context(|| format!("write {}", out.display()))
}
