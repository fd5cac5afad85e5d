//! The properties of a schema: their paths, where they stand in a value, and the shortest value that has one. Pure.

use std::fmt;

use serde_json::{Map, Value, json};

use super::{HAND_WRITTEN, text};

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// To a field.
    Field(String),
    /// To an item of a list.
    Item,
    /// To an entry of a map.
    Entry,
}

/// Where a property stands: written `vectorStore.qdrant.collections[].name`, an entry of a map as `api.modelAliases{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Step>);

impl Path {
    /// One step further.
    #[must_use]
    pub fn then(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// The steps from the top.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => formatter.write_str(name)?,
                Step::Field(name) => write!(formatter, ".{name}")?,
                Step::Item => formatter.write_str("[]")?,
                Step::Entry => formatter.write_str("{}")?,
            }
        }
        Ok(())
    }
}

/// A property of a schema.
#[derive(Clone, Debug)]
pub struct Property<'a> {
    /// Where it stands.
    pub path: Path,
    /// What it may be.
    pub schema: &'a Value,
}

impl<'a> Property<'a> {
    /// What stands inside.
    fn inner(&self) -> Vec<Self> {
        let one = |step: Step, schema: &'a Value| Self { path: self.path.then(step), schema };
        let mut found: Vec<Self> = self.schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, inner)| one(Step::Field(name.clone()), inner))
            .collect();
        for (word, step) in [("items", Step::Item), ("additionalProperties", Step::Entry)] {
            if self.schema[word].is_object() {
                found.push(one(step, &self.schema[word]));
            }
        }
        found
    }
}

/// Every property, the whole included.
pub fn all(schema: &Value) -> Vec<Property<'_>> {
    let mut found = vec![Property { path: Path::default(), schema }];
    let mut at = 0;
    while at < found.len() {
        let inner = found[at].inner();
        found.extend(inner);
        at += 1;
    }
    found
}

/// Every property with nothing inside; what is written by hand counts as one.
pub fn leaves(schema: &Value) -> Vec<Property<'_>> {
    let is_by_hand = |path: &str| HAND_WRITTEN.iter().any(|(part, _)| *part == path);
    let is_inside = |path: &str| HAND_WRITTEN.iter().any(|(part, _)| path != *part && path.starts_with(part));
    let mut found = all(schema);
    found.retain(|property| {
        let path = property.path.to_string();
        is_by_hand(&path) || (property.inner().is_empty() && !is_inside(&path))
    });
    found
}

/// JSON pointers to every place where a property stands in a value.
pub fn places(value: &Value, steps: &[Step]) -> Vec<String> {
    let Some((step, rest)) = steps.split_first() else { return vec![String::new()] };
    let inner: Vec<(String, &Value)> = match (step, value) {
        (Step::Field(name), Value::Object(fields)) => {
            fields.get(name).map(|inner| (name.clone(), inner)).into_iter().collect()
        }
        (Step::Entry, Value::Object(fields)) => fields.iter().map(|(name, inner)| (name.clone(), inner)).collect(),
        (Step::Item, Value::Array(items)) => {
            items.iter().enumerate().map(|(at, inner)| (at.to_string(), inner)).collect()
        }
        _ => Vec::new(),
    };
    let further = |(name, inner): (String, &Value)| {
        let name = name.replace('~', "~0").replace('/', "~1");
        places(inner, rest).into_iter().map(move |place| format!("/{name}{place}")).collect::<Vec<_>>()
    };
    inner.into_iter().flat_map(further).collect()
}

/// The shortest value: what is required, and nothing else.
pub fn shortest(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("boolean") => json!(false),
        Some("integer") => {
            let (minimum, maximum) = super::range(schema);
            json!(0.clamp(minimum, maximum))
        }
        Some("array") => {
            let fewest = usize::try_from(schema["minItems"].as_u64().unwrap_or(0)).unwrap();
            vec![shortest(&schema["items"]); fewest].into()
        }
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|name| (name.to_owned(), shortest(&schema["properties"][name]))).collect::<Map<_, _>>().into()
        }
        _ => json!(text::some(schema)),
    }
}

/// The shortest value that has `inner` where the steps lead.
pub fn around(schema: &Value, steps: &[Step], inner: Value) -> Value {
    let Some((step, rest)) = steps.split_first() else { return inner };
    match step {
        Step::Field(name) => {
            let mut whole = shortest(schema);
            whole[name] = around(&schema["properties"][name], rest, inner);
            whole
        }
        Step::Item => json!([around(&schema["items"], rest, inner)]),
        Step::Entry => json!({"name": around(&schema["additionalProperties"], rest, inner)}),
    }
}
