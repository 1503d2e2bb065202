//! The reader of the data file; its format is described in `crates/xtask/src/schema.rs`.

/// One definition.
pub struct Type {
    pub name: String,
    pub atomic: bool,
    /// (group, version, kind)
    pub gvks: Vec<(String, String, String)>,
    pub fields: Vec<Field>,
}

/// One JSON field of a definition.
#[derive(Default)]
pub struct Field {
    pub json: String,
    pub path: Vec<u32>,
    pub ty: String,
    pub required: bool,
    pub pointer: bool,
    pub omit_empty: bool,
    pub list: String,
    pub keys: Vec<String>,
    pub map: String,
    pub patch: Vec<String>,
    pub merge_key: String,
    pub go_type: String,
    pub enum_values: Vec<String>,
    pub default: Option<String>,
}

/// Types in the order of their names, fields in the order of theirs.
pub fn parse(text: &str) -> Result<Vec<Type>, String> {
    let mut types: Vec<Type> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let problem = |what: &str| format!("data/v1.36.types:{}: {what}", index + 1);
        let mut words = line.split(' ');
        match words.next() {
            Some("type") => types.push(Type {
                name: words.next().ok_or_else(|| problem("no name"))?.to_owned(),
                atomic: words.next() == Some("atomic"),
                gvks: Vec::new(),
                fields: Vec::new(),
            }),
            Some("gvk") => {
                let mut next = || words.next().map(|w| w.trim_matches('-').to_owned());
                let (Some(group), Some(version), Some(kind)) = (next(), next(), next()) else {
                    return Err(problem("a gvk needs group, version and kind"));
                };
                types.last_mut().ok_or_else(|| problem("gvk before type"))?.gvks.push((group, version, kind));
            }
            Some("-") => {
                let field = parse_field(words).map_err(|e| problem(&e))?;
                types.last_mut().ok_or_else(|| problem("field before type"))?.fields.push(field);
            }
            Some("" | "#") | None => {}
            Some(other) => return Err(problem(&format!("unknown line {other:?}"))),
        }
    }
    types.sort_by(|a, b| a.name.cmp(&b.name));
    for ty in &mut types {
        ty.fields.sort_by(|a, b| a.json.cmp(&b.json));
    }
    Ok(types)
}

fn parse_field<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Field, String> {
    let mut field = Field {
        json: words.next().ok_or("no field name")?.to_owned(),
        path: (words.next().ok_or("no protobuf path")?.split('.').map(str::parse).collect::<Result<_, _>>())
            .map_err(|e| format!("protobuf path: {e}"))?,
        ty: words.next().ok_or("no field type")?.to_owned(),
        ..Field::default()
    };
    let list = |value: &str| value.split(',').map(str::to_owned).collect::<Vec<_>>();
    for word in words {
        match word.split_once('=') {
            None if word == "req" => field.required = true,
            None if word == "ptr" => field.pointer = true,
            None if word == "omit" => field.omit_empty = true,
            Some(("list", value)) => field.list = value.to_owned(),
            Some(("keys", value)) => field.keys = list(value),
            Some(("map", value)) => field.map = value.to_owned(),
            Some(("patch", value)) => field.patch = list(value),
            Some(("mergekey", value)) => field.merge_key = value.to_owned(),
            Some(("go", value)) => field.go_type = value.to_owned(),
            Some(("default", value)) => field.default = Some(value.to_owned()),
            Some(("enum", value)) => {
                field.enum_values =
                    serde_json::from_str(&value.replace('\u{a0}', " ")).map_err(|e| e.to_string())?;
            }
            _ => return Err(format!("unknown marker {word:?}")),
        }
    }
    Ok(field)
}
