//! What the schema of a `RerankDeployment` says of an object without an API server: unknown fields by the types, values by JSON schema,
//! rules by CEL.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow, bail};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::definition;
use serde_json::Value;

/// The schema, compiled once.
#[derive(Debug)]
pub struct Schema {
    value: Value,
    values: jsonschema::Validator,
    rules: kube_cel::CompiledSchema,
    cel: kube_cel::Validator,
}

/// A value that the schema refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedValue {
    /// JSON pointer to the value.
    pub place: String,
    /// The schema's word that refuses it, such as `maximum`.
    pub keyword: String,
    /// What is said of it.
    pub message: String,
}

impl Schema {
    /// That of the definition as the code makes it.
    ///
    /// # Errors
    /// The definition cannot be made, or its schema cannot be read.
    pub fn of_the_definition() -> anyhow::Result<Self> {
        let definition = serde_json::to_value(definition()?)?;
        Self::new(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
    }

    /// A schema of Kubernetes. A rule that cannot be read refuses everything.
    ///
    /// # Errors
    /// It is none.
    pub fn new(value: Value) -> anyhow::Result<Self> {
        let values = jsonschema::validator_for(&value).map_err(|error| anyhow!("no schema: {error}"))?;
        let rules = kube_cel::compile_schema(&value);
        Ok(Self { value, values, rules, cel: kube_cel::Validator::new() })
    }

    /// The whole of it.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The part that describes the specification.
    pub fn specification(&self) -> &Value {
        &self.value["properties"]["spec"]
    }

    /// Whether an API server would accept the object.
    ///
    /// # Errors
    /// It would not; the message names the field.
    pub fn check(&self, object: &Value) -> anyhow::Result<()> {
        self.check_change(None, object)
    }

    /// Whether an API server would accept the object in place of another.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_change(&self, before: Option<&Value>, object: &Value) -> anyhow::Result<()> {
        serde_json::from_value::<RerankDeployment>(object.clone()).context("the types refuse it")?;
        let refused = self.refused_values(object);
        if !refused.is_empty() {
            let told = refused.iter().map(|refused| {
                format!("{}: {}", refused.place.trim_start_matches('/').replace('/', "."), refused.message)
            });
            bail!("{}", told.collect::<Vec<_>>().join("; "));
        }
        find_duplicates(&self.value, object)?;
        self.cel.validate_compiled(&self.rules, object, before)?;
        Ok(())
    }

    /// Every value that is refused by itself, without regard to another.
    pub fn refused_values(&self, object: &Value) -> Vec<RefusedValue> {
        let told = |error: jsonschema::ValidationError<'_>| RefusedValue {
            place: error.instance_path().to_string(),
            keyword: error.schema_path().to_string().rsplit('/').next().unwrap_or_default().to_owned(),
            message: error.to_string(),
        };
        self.values.iter_errors(object).map(told).collect()
    }

    /// The object as an API server keeps it, with every default that the schema names.
    pub fn with_defaults(&self, object: &Value) -> Value {
        kube_cel::apply_defaults(&self.value, object)
    }
}

/// Lists whose entries are told apart by a key have none twice.
fn find_duplicates(schema: &Value, value: &Value) -> anyhow::Result<()> {
    if let (Some(key), Some(items)) = (schema["x-kubernetes-list-map-keys"][0].as_str(), value.as_array()) {
        let mut seen = BTreeSet::new();
        if let Some(twice) = items.iter().find(|item| !seen.insert(item[key].to_string())) {
            bail!("Duplicate value: {}", twice[key]);
        }
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        find_duplicates(inner, &value[name])?;
    }
    Ok(())
}
