//! The CustomResourceDefinition: what the types say, and what they cannot. Pure.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{RerankDeployment, bounds};

/// Longest name of an object: what its children add fits into the 63 characters of a label.
pub const MAXIMUM_NAME_CHARACTERS: usize = 48;

/// Why the definition cannot be made: a fault of this crate, which its tests would show.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// Not a definition.
    #[error("the schema is none of Kubernetes")]
    Schema(#[from] serde_json::Error),
    /// Not to be written as YAML.
    #[error("the definition cannot be written as YAML")]
    Yaml(#[from] serde_yaml::Error),
}

/// The definition as it is installed.
///
/// # Errors
/// See [`DefinitionError`].
pub fn definition() -> Result<CustomResourceDefinition, DefinitionError> {
    Ok(serde_json::from_value(value()?)?)
}

/// The definition as YAML, as it is committed.
///
/// # Errors
/// See [`DefinitionError`].
pub fn yaml() -> Result<String, DefinitionError> {
    Ok(format!("{HEAD}{}", serde_yaml::to_string(&value()?)?))
}

const HEAD: &str = "# RerankDeployment. This file is made from the code; a test compares the two. Its fields are explained in\n\
    # docs/rerank-deployment.md and by `kubectl explain rrd.spec`.\n";

/// The definition as JSON.
///
/// # Errors
/// See [`DefinitionError`].
pub(super) fn value() -> Result<Value, DefinitionError> {
    let mut definition = serde_json::to_value(RerankDeployment::crd())?;
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["description"] = json!(DESCRIPTION);
    schema["x-kubernetes-validations"] = bounds::rules(&[(
        &format!(
            "size(self.metadata.name) <= {MAXIMUM_NAME_CHARACTERS} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
        ),
        &format!(
            "metadata.name must have at most {MAXIMUM_NAME_CHARACTERS} lower-case letters, digits and '-', and begin with a letter: the Service is named so"
        ),
    )]);
    let properties = &mut schema["properties"];
    for part in ["spec", "status"] {
        bounds::bound(&mut properties[part]);
    }
    tell_apart(&mut properties["status"]["properties"]["conditions"], "type");
    let spec = &mut properties["spec"]["properties"];
    tell_apart(&mut spec["vectorStore"]["properties"]["qdrant"]["properties"]["collections"], "name");
    tell_apart(&mut spec["reranker"]["properties"]["allowedOverrides"], "model");
    tell_apart(&mut spec["reranker"]["properties"]["custom"], "model");
    tell_apart(&mut spec["access"]["properties"]["clients"], "name");
    tell_apart(&mut spec["accelerator"]["properties"]["resourceClaims"], "name");
    tell_apart(&mut spec["imagePullSecrets"], "name");
    // Kubernetes's own type allows an empty name, and says that it is almost certainly wrong.
    let name = &mut spec["imagePullSecrets"]["items"]["properties"]["name"];
    name["description"] = json!("Its name.");
    name["minLength"] = json!(1);
    name["maxLength"] = json!(253);
    name["pattern"] = json!(bounds::OBJECT_NAME);
    Ok(definition)
}

const DESCRIPTION: &str = "Two-stage search as a service: embed the query, take candidates from Qdrant, let a cross-encoder read each of them, \
    answer the best.";

/// A list whose entries are told apart by a field: no value of it twice, and several managers may each own some entries.
fn tell_apart(list: &mut Value, key: &str) {
    list["x-kubernetes-list-type"] = json!("map");
    list["x-kubernetes-list-map-keys"] = json!([key]);
}
