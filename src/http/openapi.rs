//! The reference of the API (OpenAPI 3.1): made of the table of routes and of the schemas of
//! records, so that it says what the code does.

use std::sync::OnceLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::records::{ENCODER_FACTS, NODE_FACTS, PAGE_MAX};
use super::routes::{Answer, Content, Route, all};
use crate::accounts::{Field, IDS_MAX, Kind, Part, Schema};

static DOCUMENT: OnceLock<String> = OnceLock::new();

/// `GET /api/v1/openapi.json`.
pub(super) async fn document() -> Response {
    let text = DOCUMENT.get_or_init(|| whole().to_string());
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], text.as_str()).into_response()
}

/// Who may read and write records of a kind, in words.
pub(super) fn rights(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::DOMAIN => ("anything in it", "administer, over the whole mesh"),
        Kind::ENCODER => ("view, of it", "operate, in its domain"),
        Kind::ROOM => ("view, in its domain", "operate, in its domain"),
        Kind::ACCOUNT => ("administer, in its domain; oneself", "administer, in its domain"),
        Kind::GROUP | Kind::RULE | Kind::ENROLMENT => {
            ("administer, in its domain", "administer, in its domain")
        }
        _ => ("operate, over the whole mesh", "administer, over the whole mesh"),
    }
}

/// The name of what is shown of a kind.
pub(super) fn shown_name(schema: &Schema) -> String {
    let mut name = schema.name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}

/// The name of what is sent.
pub(super) fn body_name(schema: &Schema) -> String {
    format!("{}Body", shown_name(schema))
}

pub(super) fn whole() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in all() {
        let path = paths.entry(&route.path).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(route.method.to_owned(), operation(&route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Roost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Any node answers any request. Errors are problem documents (RFC 9457).",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = path_parameters(&route.path)
        .map(|name| {
            let schema = match name {
                "id" => json!({
                    "anyOf": [
                        { "type": "string", "pattern": "^[0-9a-f]{32}$" },
                        { "type": "string", "minLength": 1, "maxLength": 160 },
                    ],
                    "description": "32 hexadecimal digits, or name or domain/name with %2F",
                }),
                "name" if route.path.starts_with("/whip/") && route.method == "post" => json!({
                    "type": "string",
                    "pattern": "^([a-z0-9._-]{1,64}/)?[a-z0-9._-]{1,64}$",
                    "description": "name or domain/name with %2F",
                }),
                _ => json!({ "type": "string", "minLength": 1 }),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    parameters.extend(route.takes.iter().map(|name| parameter(name)));
    let mut responses = Map::new();
    for answer in &route.answers {
        responses.insert(answer.status.to_string(), response(answer));
    }
    let mut out = json!({
        "summary": route.about,
        "operationId": operation_id(route),
        "responses": responses,
    });
    if let Value::Object(out) = &mut out {
        if !parameters.is_empty() {
            out.insert("parameters".into(), json!(parameters));
        }
        if let Some((media, schema)) = &route.body {
            let content = json!({ *media: { "schema": reference(schema) } });
            // What these leave out has a default, also all of it.
            let required =
                !["InvitationTerms", "KeyTerms", "Revocation"].contains(&schema.as_str());
            out.insert("requestBody".into(), json!({ "required": required, "content": content }));
        }
        if let Some(right) = &route.right {
            out.insert("description".into(), json!(format!("Takes the right to {right}.")));
            // Whoever comes by the socket of the node needs none, but that is no address.
            out.insert("security".into(), json!([{ "bearer": [] }]));
        }
    }
    out
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split(['/', '{', '}', '.', '-']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.filter(|word| !matches!(*word, "api" | "v1")).collect();
    format!("{}_{}", route.method, if words.is_empty() { "root".into() } else { words.join("_") })
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn parameter(name: &str) -> Value {
    const NEXT: &str = "next of the answer before, of whatever node";
    let text = || json!({ "type": "string" });
    let of_pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    // Both lists together are within the limit.
    let most = super::plan::IMAGINED_MAX / 2;
    let one = of_pattern("^[a-z0-9._-]{1,64}$");
    let nodes = || json!({ "type": "array", "maxItems": most, "items": one });
    let tag = r#"^"[0-9a-f]{16}"$"#;
    let (place, schema, about) = match name {
        "limit" => (
            "query",
            json!({ "type": "integer", "minimum": 1, "maximum": PAGE_MAX }),
            "how many at once",
        ),
        "cursor" => ("query", of_pattern("^[0-9a-f]{32}$"), NEXT),
        "cursor of all" => {
            ("query", of_pattern(r"^[0-9]{1,15}\.[0-9a-f]{32}\.[0-9]{1,15}\.[0-9a-f]{8}$"), NEXT)
        }
        "q" => ("query", text(), "part of the name"),
        "domain" => ("query", text(), "id or name of a domain"),
        "encoder" => ("query", text(), "id or name of an encoder"),
        "verbose" => ("query", text(), "also what is well"),
        "exclude" => ("query", text(), "a check that is left out"),
        "leg" => ("query", text(), "home, next, here or a node's id"),
        "warm" => ("query", text(), "1: silent until told to play"),
        "lose" => (
            "query",
            json!({ "type": "integer", "minimum": 0 }),
            "so many nodes, the worst to lose",
        ),
        "drain" => ("query", nodes(), "nodes, by name or id: given once for each"),
        "add" => ("query", nodes(), "nodes that come, also new ones: given once for each"),
        "rt" => ("query", text(), "of a redirect"),
        "If-Match" => (
            "header",
            json!({ "anyOf": [{ "const": "*" }, { "type": "string", "pattern": tag }] }),
            "the ETag that was read",
        ),
        "If-None-Match" => ("header", json!({ "const": "*" }), "to make a new one"),
        "Roost-Wait" => (
            "header",
            json!({ "type": "integer", "minimum": 0, "maximum": 1000 }),
            "how many nodes are to have the change on disk, within 5 s",
        ),
        _ => (
            "header",
            json!({ "type": "string", "pattern": r"^[0-9a-f]{32}\.[0-9]{1,15}$" }),
            "Roost-Version of a write that the answer is to include",
        ),
    };
    let name = name.trim_end_matches(" of all");
    json!({ "name": name, "in": place, "required": false, "schema": schema, "description": about })
}

fn response(answer: &Answer) -> Value {
    let words = axum::http::StatusCode::from_u16(answer.status).ok();
    let words = words.and_then(|status| status.canonical_reason()).unwrap_or("Answer");
    let mut content = Map::new();
    for one in &answer.content {
        match one {
            Content::Json(schema) => {
                content.insert("application/json".into(), json!({ "schema": reference(schema) }));
            }
            Content::Other("application/problem+json") => {
                let problem = json!({ "schema": reference("Problem") });
                content.insert("application/problem+json".into(), problem);
            }
            Content::Other(media) => drop(content.insert((*media).into(), json!({}))),
        }
    }
    let mut out = json!({ "description": words });
    if let Value::Object(out) = &mut out {
        if !content.is_empty() {
            out.insert("content".into(), Value::Object(content));
        }
        if !answer.headers.is_empty() {
            let headers = answer.headers.iter();
            let headers = headers.map(|name| ((*name).to_owned(), shown_header(name)));
            out.insert("headers".into(), headers.collect::<Map<_, _>>().into());
        }
    }
    out
}

fn shown_header(name: &str) -> Value {
    let (kind, about) = match name {
        "Roost-Version" => ("string", "names the write, for Roost-Min-Version"),
        "Roost-Nodes" => ("integer", "nodes that have the write on disk"),
        "Roost-Waited" => ("string", "false: they were not as many as waited for"),
        "Roost-May" => ("string", "read, or read, write: what the caller may do here"),
        "Roost-Stale" => ("string", "true: without the write of Roost-Min-Version"),
        _ => ("string", "the state, for If-Match"),
    };
    json!({ "schema": { "type": kind }, "description": about })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn schemas() -> Map<String, Value> {
    let mut out = Map::new();
    for schema in Kind::schemas().filter(|schema| schema.noun.is_some()) {
        let (shown, body) = (shown_name(schema), body_name(schema));
        out.insert(format!("{shown}List"), list_of(&shown));
        out.insert(format!("{body}Patch"), body_schema(schema, true));
        out.insert(body, body_schema(schema, false));
        out.insert(shown, shown_schema(schema));
    }
    if let Value::Object(fixed) = fixed() {
        out.extend(fixed);
    }
    out
}

fn list_of(name: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": { "type": "array", "items": reference(name) },
            "next": { "type": ["string", "null"], "description": "cursor of what follows" },
        },
    })
}

/// What is sent of a kind; of a patch nothing is required, and `null` takes away.
fn body_schema(schema: &Schema, patch: bool) -> Value {
    let mut properties = Map::new();
    for part in schema.fields.iter().filter(|part| part.written) {
        let mut of = value_schema(part);
        if !part.required {
            of = json!({ "anyOf": [of, { "type": "null" }], "description": part.about });
        }
        properties.insert(part.name.into(), of);
    }
    for part in schema.shown_sets().filter(|part| part.written) {
        properties.insert(part.name.into(), set_schema(part));
    }
    if schema.can_be_disabled() {
        properties.insert("disabled".into(), json!({ "type": "boolean" }));
    }
    let required: Vec<&str> =
        schema.fields.iter().filter(|part| part.required && !patch).map(|part| part.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// What is shown of a kind.
fn shown_schema(schema: &Schema) -> Value {
    let mut properties = Map::new();
    let mut required = vec!["id"];
    properties.insert("id".into(), id("its id, for life"));
    let facts = match schema.kind {
        Kind::ENCODER => ENCODER_FACTS,
        Kind::NODE => NODE_FACTS,
        _ => &[],
    };
    for name in facts {
        properties.insert((*name).into(), json!({ "description": "as this node sees it" }));
    }
    // What other nodes wrote is shown whatever it is: its types hold, its patterns may not.
    for part in schema.shown_fields() {
        properties.insert(part.name.into(), shown_value(part));
    }
    for part in schema.shown_sets() {
        required.push(part.name);
        let items = shown_value(part);
        properties.insert(part.name.into(), json!({ "type": "array", "items": items }));
    }
    if schema.can_be_disabled() {
        required.push("disabled");
        properties.insert("disabled".into(), json!({ "type": "boolean" }));
    }
    properties.insert(
        "conflicts".into(),
        json!({
            "type": "object",
            "description": "all values of fields that were changed at several nodes at once",
            "additionalProperties": { "type": "array", "items": reference("Sibling") },
        }),
    );
    properties.insert("changed".into(), reference("Stamp"));
    let about = "another has the same name: they were named on two sides of a cut";
    properties.insert("duplicate".into(), json!({ "const": true, "description": about }));
    json!({
        "type": "object", "properties": properties, "required": required, "x-end": schema.end,
    })
}

fn value_schema(part: &Part) -> Value {
    let mut out = match part.field {
        Field::Name => json!({ "type": "string", "pattern": "^[a-z0-9._-]{1,64}$" }),
        Field::Text if !part.one_of.is_empty() => json!({ "enum": part.one_of }),
        // No control characters but line breaks and tabs.
        Field::Text => json!({
            "type": "string",
            "maxLength": part.max,
            "pattern": "^[^\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f]*$",
        }),
        Field::Number => {
            json!({ "type": "integer", "minimum": -(1_i64 << 53), "maximum": 1_i64 << 53 })
        }
        Field::Flag => json!({ "type": "boolean" }),
        Field::Id => json!({ "type": "string", "maxLength": 160, "x-noun": noun(part) }),
        Field::Ids => json!({
            "type": "array",
            "items": { "type": "string", "maxLength": 160, "x-noun": noun(part) },
            "maxItems": IDS_MAX,
            "uniqueItems": true,
        }),
        Field::Bytes | Field::Secret => json!({ "type": "string" }),
    };
    if let Value::Object(out) = &mut out {
        out.insert("description".into(), json!(part.about));
    }
    out
}

/// In whose paths the records are that an id names.
fn noun(part: &Part) -> Option<&'static str> {
    part.names?.schema()?.noun
}

fn set_schema(part: &Part) -> Value {
    json!({
        "type": "array",
        "items": value_schema(part),
        "uniqueItems": true,
        "description": part.about,
    })
}

fn shown_value(part: &Part) -> Value {
    match part.field {
        Field::Number => json!({ "type": ["integer", "null"], "description": part.about }),
        Field::Flag => json!({ "type": "boolean", "description": part.about }),
        Field::Id => json!({ "type": "string", "description": part.about, "x-noun": noun(part) }),
        Field::Ids => json!({
            "type": "array",
            "items": { "type": "string", "x-noun": noun(part) },
            "description": part.about,
        }),
        _ => json!({ "type": "string", "description": part.about }),
    }
}

fn id(about: &str) -> Value {
    json!({ "type": "string", "pattern": "^[0-9a-f]{32}$", "description": about })
}

/// What is no record.
fn fixed() -> Value {
    let maybe_id = json!({ "type": ["string", "null"] });
    let at = json!({ "type": ["integer", "null"], "description": "milliseconds since 1970" });
    let object = |properties: Value, required: Value| json!({ "type": "object", "properties": properties, "required": required });
    let closed = |properties: Value| json!({ "type": "object", "properties": properties, "additionalProperties": false });
    let texts = |names: &[&str]| {
        let text = |name: &&str| ((*name).to_owned(), json!({ "type": "string" }));
        let mut out = closed(names.iter().map(text).collect());
        out["required"] = json!(names);
        out
    };
    json!({
        "Problem": object(
            json!({
                "type": { "type": "string" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "errors": { "type": "array", "items": reference("Fault") },
                "current": { "type": "object", "description": "of 412: what is there now" },
                "candidates": {
                    "type": "array",
                    "items": { "type": "string" },
                    "description": "of a name that is not there: what has it in other domains",
                },
            }),
            json!(["type", "title", "status", "detail"]),
        ),
        "Fault": object(
            json!({ "pointer": { "type": "string" }, "detail": { "type": "string" } }),
            json!(["pointer", "detail"]),
        ),
        "Sibling": object(
            json!({ "value": {}, "account": maybe_id, "node": maybe_id, "at": at }),
            json!(["value", "account", "node", "at"]),
        ),
        "Stamp": object(
            json!({ "account": maybe_id, "node": id("where"), "at": at }),
            json!(["account", "node", "at"]),
        ),
        "Health": object(json!({ "status": { "type": "integer" } }), json!(["status"])),
        "Cluster": object(
            json!({
                "mesh": id("the mesh"),
                "node": id("whose view it is"),
                "nodes": { "type": "array", "items": { "type": "object" } },
                "encoders": { "type": "array", "items": { "type": "object" } },
            }),
            json!(["mesh", "node", "nodes", "encoders"]),
        ),
        "Viewers": object(
            json!({
                "viewers": { "type": "array", "items": { "type": "object" } },
                "missing": { "type": "array", "items": id("a node that did not answer") },
            }),
            json!(["viewers", "missing"]),
        ),
        "Wish": closed(json!({
            "to": { "type": "string", "description": "a node, by name or id" },
        })),
        "Moved": object(
            json!({
                "encoder": id("which"),
                "name": { "type": "string" },
                "from": id("its home before"),
                "to": id("its home"),
                "to_name": { "type": "string" },
            }),
            json!(["encoder", "name", "from", "to", "to_name"]),
        ),
        "Why": object(
            json!({
                "encoder": id("which"),
                "name": { "type": "string" },
                "home": maybe_id,
                "home_name": { "type": ["string", "null"] },
                "next": maybe_id,
                "next_name": { "type": ["string", "null"] },
                "epoch": { "type": "string" },
                "watched": { "type": "boolean" },
                "reason": { "type": "string", "description": "as said when it came there" },
                "pools": {
                    "type": "array",
                    "items": { "type": "string" },
                    "description": "where it should be, to who may see pools",
                },
                "placement": { "enum": ["prefer", "only"] },
                "guide": { "enum": ["encoder", "room", "group", "domain", "mesh"] },
                "pool": {
                    "type": ["string", "null"],
                    "description": "the one of them that its home is in",
                },
            }),
            json!(["encoder", "name", "home", "next", "epoch", "watched", "reason"]),
        ),
        "Plan": super::plan::schema(),
        "DrainState": object(
            json!({
                "draining": { "type": "boolean" },
                "cordoned": { "type": "boolean" },
                "left": { "type": "integer", "description": "encoders still at home there" },
                "watched": { "type": "integer", "description": "of those, watched" },
                "moving": { "type": "integer", "description": "of those, on their way" },
                "viewers": { "type": "integer", "description": "there, of whatever encoder" },
                "stuck": { "type": "array", "items": { "type": "object" } },
                "plan": { "type": "array", "items": { "type": "object" } },
            }),
            json!(["draining", "cordoned", "left", "watched", "moving", "viewers", "stuck", "plan"]),
        ),
        "InvitationTerms": closed(json!({
            "uses": { "type": "integer", "minimum": 1, "maximum": 1000 },
            "expires_s": { "type": "integer", "minimum": 1, "maximum": 2_678_400 },
            "client": { "type": "boolean" },
            "domain": { "type": ["string", "null"] },
        })),
        "Invitation": object(
            json!({
                "invitation": { "type": "string" },
                "enrolment": id("of a client's string: the record whose removal ends it"),
            }),
            json!(["invitation"]),
        ),
        "KeyTerms": closed(json!({
            "overlap_s": {
                "type": ["integer", "null"], "minimum": 0, "maximum": 31_622_400,
                "description": "how long the keys before stay good: a day, unless it is said",
            },
        })),
        "Key": object(
            json!({
                "key": { "type": "string" },
                "prefix": { "type": "string", "description": "by which it is named" },
                "expires_old": at,
            }),
            json!(["key", "prefix", "expires_old"]),
        ),
        "Keys": object(
            json!({ "items": { "type": "array", "items": object(
                json!({ "prefix": { "type": "string" }, "made": at, "expires": at }),
                json!(["prefix", "made", "expires"]),
            ) } }),
            json!(["items"]),
        ),
        "HistoryList": object(
            json!({ "items": { "type": "array", "items": reference("Entry") } }),
            json!(["items"]),
        ),
        "Entry": object(
            json!({
                "at": at,
                "account": maybe_id,
                "account_name": maybe_id,
                "node": id("where"),
                "node_name": maybe_id,
                "what": { "type": "array", "items": { "type": "string" } },
                "void": { "type": "boolean" },
                "kind": { "type": "string" },
                "id": id("of the record"),
                "name": maybe_id,
            }),
            json!(["at", "account", "account_name", "node", "node_name", "what", "void"]),
        ),
        "AuditList": list_of("Entry"),
        "Login": texts(&["name", "password"]),
        "NewPassword": texts(&["old", "new"]),
        "Password": texts(&["password"]),
        "Session": object(
            json!({ "token": { "type": "string" }, "expires": at, "account": id("whose") }),
            json!(["token", "expires", "account"]),
        ),
        "Me": object(
            json!({ "kind": { "type": "string" }, "name": { "type": "string" },
                "roles": { "type": "array", "items": { "type": "object" } } }),
            json!(["kind", "name", "roles"]),
        ),
        "Revocation": closed(json!({ "reason": { "type": "string" } })),
        "Sdp": { "type": "string" },
    })
}
