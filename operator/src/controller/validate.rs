//! A specification becomes a plan: the server's configuration, what it will take, where it runs. Pure.
//!
//! What the schema cannot say is said here, in the server's own words: the rendered configuration is validated by the code that
//! the server reads it with.

use rerank_crds::ServerConfig;
use rerank_crds::catalog::{DeviceKind, Selection};
use rerank_crds::rerank_deployment::{Accelerator, RerankDeploymentSpec};
use rerank_crds::server_config::network::check_proxy_url;
use rerank_crds::server_config::{Footprint, UnknownShape, Violations};
use tracing_subscriber::EnvFilter;

use super::build::server_config;

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
    /// The server would refuse it.
    #[error("{0}")]
    Violations(Violations),
    /// A field that the server's configuration does not have.
    #[error("{field}: {message}")]
    Field {
        /// Its path below `spec`.
        field: &'static str,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// A fault of the operator.
    #[error("the configuration cannot be written as YAML: {0}")]
    Yaml(String),
}

/// Makes the plan.
///
/// # Errors
/// See [`Refusal`].
pub fn validate(spec: &RerankDeploymentSpec) -> Result<Plan, Refusal> {
    let config = server_config::render(spec);
    config.validate().map_err(Refusal::Violations)?;
    check_beside(spec)?;
    let config_yaml = config.to_yaml().map_err(|error| Refusal::Yaml(error.to_string()))?;
    let device = device_of(&spec.accelerator);
    Ok(Plan { selection: config.selection(), footprint: config.footprint(device), config, config_yaml, device })
}

/// What the server would find out only when it starts.
fn check_beside(spec: &RerankDeploymentSpec) -> Result<(), Refusal> {
    let refused = |field, error: &dyn std::error::Error| Refusal::Field { field, message: error.to_string() };
    if let Some(proxy) = spec.weights.hub.as_ref().and_then(|hub| hub.proxy.as_deref()) {
        check_proxy_url(proxy).map_err(|error| refused("weights.hub.proxy", &error))?;
    }
    EnvFilter::try_new(&spec.logging.filter).map_err(|error| refused("logging.filter", &error))?;
    Ok(())
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
}
