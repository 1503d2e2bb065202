use super::*;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn deployments() -> ResourceDoc {
    let sub = |name: &str, group: &str, kind: &str, definition: &str| SubresourceDoc {
        name: name.to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        definition: definition.to_owned(),
        verbs: words("get patch update"),
        connect: false,
    };
    ResourceDoc {
        group: "apps".to_owned(),
        version: "v1".to_owned(),
        kind: "Deployment".to_owned(),
        plural: "deployments".to_owned(),
        namespaced: true,
        verbs: words("create delete deletecollection get list patch update watch"),
        subresources: vec![
            sub("scale", "autoscaling", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
            sub("status", "apps", "Deployment", "io.k8s.api.apps.v1.Deployment"),
        ],
        definition: "io.k8s.api.apps.v1.Deployment".to_owned(),
    }
}

/// Every reference of a document has its definition.
fn check_closed(document: &Value, prefix: &str, definitions: &Value) {
    match document {
        Value::Object(map) => map.iter().for_each(|(key, value)| match value {
            Value::String(text) if key == "$ref" => {
                let name = text.strip_prefix(prefix).unwrap_or_else(|| panic!("{text}"));
                assert!(definitions.get(name).is_some(), "{name} is not defined");
            }
            other => check_closed(other, prefix, definitions),
        }),
        Value::Array(items) => items.iter().for_each(|item| check_closed(item, prefix, definitions)),
        _ => {}
    }
}

#[test]
fn the_v3_document_says_what_kubectl_asks() {
    let document: Value = serde_json::from_slice(&document_v3("apps", "v1", &[deployments()])).unwrap();
    let schemas = &document["components"]["schemas"];
    check_closed(&document, "#/components/schemas/", schemas);
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
    assert_eq!(deployment["description"], "Deployment enables declarative updates for Pods and ReplicaSets.");
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert!(containers["description"].as_str().unwrap().len() > 20);
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(item["patch"]["operationId"], "patchAppsV1NamespacedDeployment");
    let names: Vec<&str> =
        item["patch"]["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    assert_eq!(scale["operationId"], "readAppsV1NamespacedDeploymentScale");
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
    assert_eq!(scale["description"], "read scale of the specified Deployment");
}

#[test]
fn the_v2_document_is_closed() {
    let document: Value = serde_json::from_slice(&document_v2(&[deployments()])).unwrap();
    check_closed(&document, "#/definitions/", &document["definitions"]);
    assert_eq!(document["swagger"], "2.0");
    let all = v2_definitions();
    check_closed(&all, "#/definitions/", &all);
    assert!(all.as_object().unwrap().len() >= 771);
}

#[test]
fn nearly_every_field_has_a_description() {
    let all = v2_definitions();
    let (mut with, mut without) = (0, Vec::new());
    for (name, definition) in all.as_object().unwrap() {
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            match property.get("description") {
                Some(_) => with += 1,
                None => without.push(format!("{name}.{field}")),
            }
        }
    }
    assert!(with > 3000 && without.len() < 60, "{with} with, without: {without:?}");
}

#[test]
fn custom_definitions_are_served_beside_ours() {
    let mut custom = CustomDefinitions::new();
    let name = "com.example.v1.Widget";
    custom.insert(
        name.to_owned(),
        serde_json::json!({"type": "object", "properties": {"metadata": {
            "$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}}),
    );
    custom.insert(format!("{name}List"), list_definition("example.com", "v1", "Widget", name));
    let widgets = ResourceDoc {
        group: "example.com".to_owned(),
        kind: "Widget".to_owned(),
        plural: "widgets".to_owned(),
        subresources: Vec::new(),
        definition: name.to_owned(),
        ..deployments()
    };
    let document: Value = serde_json::from_slice(&document_v3_with(
        "example.com",
        "v1",
        std::slice::from_ref(&widgets),
        &custom,
    ))
    .unwrap();
    check_closed(&document, "#/components/schemas/", &document["components"]["schemas"]);
    let document: Value =
        serde_json::from_slice(&document_v2_with(std::slice::from_ref(&widgets), &custom)).unwrap();
    check_closed(&document, "#/definitions/", &document["definitions"]);
    assert_ne!(
        document_hash(std::slice::from_ref(&widgets), &custom),
        document_hash(&[widgets], &CustomDefinitions::new())
    );
}

#[test]
fn the_index_names_each_document() {
    let index: Value = serde_json::from_slice(&index_v3([("api/v1", "AB"), ("apis/apps/v1", "CD")])).unwrap();
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=AB");
}
