//! A specification becomes a plan: the server's configuration, what it will take, where it runs. Pure.
//!
//! What the schema cannot say is said here, in the words of whoever would refuse it later: the rendered configuration is validated by
//! the code that the server reads it with, and `children` knows what the API server allows in children. All of it at once, by the
//! object's own fields.

use rerank_crds::ServerConfig;
use rerank_crds::catalog::{DeviceKind, EngineKind, Selection};
use rerank_crds::rerank_deployment::{Accelerator, RerankDeploymentSpec};
use rerank_crds::server_config::{Footprint, UnknownShape, Violation, Violations};

use super::build::{check_limits, server_config};
use super::fields::of_object;

mod children;
mod names;

/// What is to be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The file that the server reads.
    pub config: ServerConfig,
    /// Its text, as it stands in the ConfigMap.
    pub config_yaml: String,
    /// The chosen reranker; none where reranking is switched off.
    pub selection: Option<Selection>,
    /// What the pod computes on.
    pub device: DeviceKind,
    /// What the models will take, or the model of which it is not known.
    pub footprint: Result<Footprint, UnknownShape>,
}

/// Why there is no plan: it waits for a change of the object.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Somebody would refuse what becomes of it. Paths are those of the object, below `spec`.
    #[error("{}", in_a_line(.0))]
    Violations(Violations),
    /// A fault of the operator.
    #[error("the configuration cannot be written as YAML: {0}")]
    Yaml(String),
}

fn in_a_line(violations: &Violations) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Makes the plan.
///
/// # Errors
/// See [`Refusal`].
pub fn validate(spec: &RerankDeploymentSpec) -> Result<Plan, Refusal> {
    let config = server_config::render(spec);
    let mut found = match config.validate() {
        Ok(()) => Vec::new(),
        Err(violations) => violations.iter().map(in_the_objects_words).collect(),
    };
    found.extend(children::violations(spec));
    refuse(found)?;
    let config_yaml = config.to_yaml().map_err(|error| Refusal::Yaml(error.to_string()))?;
    let device = device_of(&spec.accelerator);
    refuse(what_packed_lacks(&config, device).into_iter().collect())?;
    let plan = Plan { selection: config.selection(), footprint: config.footprint(device), config, config_yaml, device };
    let low = check_limits(spec, &plan).err();
    refuse(
        low.map(|low| Violation { path: low.field.to_owned(), message: low.message, allowed: None })
            .into_iter()
            .collect(),
    )?;
    Ok(plan)
}

/// What engine Packed, where it is asked for by name, does not compute: a server would end at its start.
fn what_packed_lacks(config: &ServerConfig, device: DeviceKind) -> Option<Violation> {
    let lacks = config.engine == EngineKind::Packed && device == DeviceKind::Cuda;
    lacks.then(|| Violation {
        path: "engine".to_owned(),
        message: "Packed computes on a CPU only".to_owned(),
        allowed: Some("Auto, Mistralrs, or an accelerator.cpu".to_owned()),
    })
}

fn refuse(found: Vec<Violation>) -> Result<(), Refusal> {
    Violations::of(found).map_or(Ok(()), |violations| Err(Refusal::Violations(violations)))
}

fn in_the_objects_words(violation: &Violation) -> Violation {
    let Violation { path, message, allowed } = violation;
    Violation { path: of_object(path), message: of_object(message), allowed: allowed.as_deref().map(of_object) }
}

/// Whatever is claimed by DRA is taken for a GPU.
fn device_of(accelerator: &Accelerator) -> DeviceKind {
    if accelerator.cpu.is_some() { DeviceKind::Cpu } else { DeviceKind::Cuda }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refusal(more: &Value) -> String {
        let mut spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        validate(&serde_json::from_value(spec).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_would_end_a_server_at_its_start_is_refused_before_there_is_a_pod() {
        let filter = refusal(&json!({"logging": {"filter": "info,["}}));
        assert!(filter.starts_with("logging.filter: "), "{filter}");
        for (proxy, words) in
            [("http://user:word@proxy:3128", "password"), ("http://169.254.169.254:80", "link-local"), ("http://", "")]
        {
            let refused = refusal(&json!({"weights": {"hub": {"proxy": proxy}}}));
            assert!(refused.starts_with("weights.hub.proxy: ") && refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn packed_is_refused_a_gpu() {
        let gpu = refusal(&json!({"engine": "Packed"}));
        assert!(gpu.starts_with("engine: Packed computes on a CPU only") && gpu.contains("accelerator.cpu"), "{gpu}");
        let mut spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "engine": "Packed"});
        spec["accelerator"] = json!({"cpu": {}});
        assert!(validate(&serde_json::from_value(spec).unwrap()).is_ok());
    }

    #[test]
    fn a_refusal_is_one_line_and_names_fields_that_an_object_has() {
        let collections = json!([{"name": "docs"}]);
        for (url, words) in [
            ("http://127.0.0.1:6334", "127.0.0.1 is the pod itself; name Qdrant's Service, such as http://qdrant:6334"),
            ("http://me:secret@qdrant:6334", "name a Secret with the key in apiKeySecretRef instead"),
        ] {
            let store = json!({"vectorStore": {"qdrant": {"url": url, "collections": collections}}, "candidates": {"minimum": 300}});
            let refused = refusal(&store);
            assert!(refused.contains(words) && !refused.contains("allowLoopback"), "{refused}");
            assert!(
                refused.contains("; candidates.minimum: ") || refused.starts_with("candidates.minimum: "),
                "{refused}"
            );
            assert!(!refused.contains('\n'), "{refused}");
        }
        let key = json!({"qdrant": {"url": "http://qdrant:6334", "collections": collections, "apiKeySecretRef": {"name": "a", "key": "k"}}});
        let refused = refusal(&json!({"vectorStore": key}));
        assert!(
            refused.starts_with("vectorStore.qdrant.apiKeySecretRef: would send the key over plain http"),
            "{refused}"
        );
        let token = json!({"hub": {"endpoint": "http://hub", "tokenSecretRef": {"name": "a", "key": "k"}}});
        let refused = refusal(&json!({"weights": token}));
        assert!(refused.starts_with("weights.hub.tokenSecretRef: would send the token"), "{refused}");
        let refused = refusal(&json!({"access": {"clients": [{"name": "a", "collections": []}]}}));
        assert!(refused.contains("access.clients: needs access.apiKeysSecretRef"), "{refused}");
        let refused = refusal(&json!({"api": {"modelAliases": {"": "a"}}}));
        assert!(refused.starts_with("api.modelAliases: has an alias without a name"), "{refused}");
    }
}
