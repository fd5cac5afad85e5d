//! What others added to a child where it may not stay: it would change who is reached, or what a pod may do. Pure.
//!
//! Server-side apply leaves alone what others own, so this is taken away by a patch of its own. A list is patched as a whole, as it
//! was seen without the additions: what the API server filled in, such as the port of a node, stays.

use serde_json::{Map, Value, json};

use super::kinds::ChildKind;

/// Switches of a pod that put it into its node's own world.
const HOST: [&str; 3] = ["hostNetwork", "hostPID", "hostIPC"];

/// Fields of our own containers that we leave out on purpose.
const OF_CONTAINERS: [&str; 2] = ["command", "envFrom"];

/// Fields of a port that only a pod in its node's network has.
const OF_PORTS: [&str; 2] = ["hostPort", "hostIP"];

/// The API server may fill it in.
const FILLED_IN: [&str; 1] = ["procMount"];

/// The merge patch that takes the additions away. None: there are none. `live` has everything that `wanted` says.
pub fn additions(kind: ChildKind, live: &Value, wanted: &Value) -> Option<Value> {
    let spec = match kind {
        ChildKind::Service => {
            ports(&live["spec"]["ports"], &wanted["spec"]["ports"]).map(|ports| json!({"ports": ports}))
        }
        ChildKind::Deployment => deployment(&live["spec"], &wanted["spec"]),
        _ => None,
    }?;
    let metadata = json!({"uid": live["metadata"]["uid"], "resourceVersion": live["metadata"]["resourceVersion"]});
    Some(json!({"metadata": metadata, "spec": spec}))
}

/// Ports of a Service, told apart as Kubernetes does.
fn ports(live: &Value, wanted: &Value) -> Option<Value> {
    let key = |port: &Value| (port["port"].clone(), port["protocol"].as_str().unwrap_or("TCP").to_owned());
    let wanted: Vec<_> = wanted.as_array()?.iter().map(key).collect();
    let all = live.as_array()?;
    let ours: Vec<&Value> = all.iter().filter(|port| wanted.contains(&key(port))).collect();
    (ours.len() < all.len() && !ours.is_empty()).then(|| json!(ours))
}

fn deployment(live: &Value, wanted: &Value) -> Option<Value> {
    let mut patch = Map::new();
    if live["paused"] == true {
        patch.insert("paused".to_owned(), Value::Null);
    }
    if let Some(pod) = pod(&live["template"]["spec"], &wanted["template"]["spec"]) {
        patch.insert("template".to_owned(), json!({"spec": pod}));
    }
    (!patch.is_empty()).then(|| patch.into())
}

fn pod(live: &Value, wanted: &Value) -> Option<Value> {
    let mut patch = Map::new();
    for name in HOST.into_iter().filter(|name| live[name] == true) {
        patch.insert(name.to_owned(), Value::Null);
    }
    if let Some(context) = extra_fields(&live["securityContext"], &wanted["securityContext"]) {
        patch.insert("securityContext".to_owned(), context);
    }
    for kind in ["initContainers", "containers"] {
        let wanted = wanted[kind].as_array().cloned().unwrap_or_default();
        let all = live[kind].as_array().cloned().unwrap_or_default();
        let cleaned: Vec<Value> = all.iter().map(|container| cleaned(container, &wanted)).collect();
        if cleaned != all {
            patch.insert(kind.to_owned(), cleaned.into());
        }
    }
    (!patch.is_empty()).then(|| patch.into())
}

/// A container without what was added to it. One that is not ours may be as it likes.
fn cleaned(live: &Value, wanted: &[Value]) -> Value {
    let mut container = live.clone();
    let Some(wanted) = wanted.iter().find(|wanted| wanted["name"] == live["name"]) else { return container };
    let Some(fields) = container.as_object_mut() else { return container };
    fields.retain(|name, _| !OF_CONTAINERS.contains(&name.as_str()) || !wanted[name.as_str()].is_null());
    let names: Vec<&Value> = wanted["env"].as_array().into_iter().flatten().map(|variable| &variable["name"]).collect();
    if let Some(Value::Array(variables)) = fields.get_mut("env") {
        variables.retain(|variable| names.contains(&&variable["name"]));
    }
    if let Some(Value::Array(ports)) = fields.get_mut("ports") {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.retain(|name, _| !OF_PORTS.contains(&name.as_str()));
        }
    }
    if let Some(context) = fields.get_mut("securityContext") {
        keep_fields(context, &wanted["securityContext"]);
    }
    container
}

/// Leaves only fields that are wanted.
fn keep_fields(live: &mut Value, wanted: &Value) {
    let (Some(fields), Some(wanted)) = (live.as_object_mut(), wanted.as_object()) else { return };
    fields.retain(|name, _| wanted.contains_key(name) || FILLED_IN.contains(&name.as_str()));
    for (name, value) in fields {
        keep_fields(value, wanted.get(name).unwrap_or(&Value::Null));
    }
}

/// Fields that are not wanted, as a merge patch that takes them away.
fn extra_fields(live: &Value, wanted: &Value) -> Option<Value> {
    let live = live.as_object()?;
    let extra = live.iter().filter_map(|(name, value)| match &wanted[name.as_str()] {
        Value::Null => Some((name.clone(), Value::Null)),
        wanted => Some((name.clone(), extra_fields(value, wanted)?)),
    });
    let extra: Map<String, Value> = extra.collect();
    (!extra.is_empty()).then(|| extra.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ports: &Value) -> Value {
        json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "spec": {"ports": ports}})
    }

    #[test]
    fn a_port_of_somebody_else_goes_and_ours_keeps_what_the_api_server_gave_it() {
        let wanted = service(&json!([{"name": "http", "port": 8000, "protocol": "TCP"}]));
        let ours = json!({"name": "http", "port": 8000, "protocol": "TCP", "nodePort": 31000});
        let live = service(&json!([ours, {"name": "back", "port": 1234, "targetPort": 9090}]));
        let patch = additions(ChildKind::Service, &live, &wanted).unwrap();
        assert_eq!(patch, json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "spec": {"ports": [ours]}}));
        assert_eq!(additions(ChildKind::Service, &service(&json!([ours])), &wanted), None);
    }

    fn wanted() -> Value {
        json!({"spec": {"template": {"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "server", "env": [{"name": "HOME", "value": "/tmp"}], "ports": [{"name": "api", "containerPort": 8000}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}}}]}}}})
    }

    #[test]
    fn what_defaults_and_others_may_add_stays() {
        let mut live = wanted();
        live["metadata"] = json!({"uid": "u", "resourceVersion": "7"});
        live["spec"]["paused"] = json!(false);
        let pod = &mut live["spec"]["template"]["spec"];
        pod["dnsPolicy"] = json!("ClusterFirst");
        pod["containers"][0]["securityContext"]["procMount"] = json!("Default");
        let sidecar =
            json!({"name": "proxy", "env": [{"name": "A", "value": "b"}], "securityContext": {"privileged": true}});
        pod["containers"].as_array_mut().unwrap().push(sidecar);
        assert_eq!(additions(ChildKind::Deployment, &live, &wanted()), None);
    }

    #[test]
    fn what_changes_what_a_pod_may_do_goes() {
        for (pointer, value, patched, left) in [
            ("/spec/paused", json!(true), "/spec/paused", Value::Null),
            ("/spec/template/spec/hostNetwork", json!(true), "/spec/template/spec/hostNetwork", Value::Null),
            (
                "/spec/template/spec/securityContext/runAsUser",
                json!(0),
                "/spec/template/spec/securityContext/runAsUser",
                Value::Null,
            ),
            (
                "/spec/template/spec/containers/0/env",
                json!([{"name": "RUST_LOG", "value": "trace"}, {"name": "HOME", "value": "/tmp"}]),
                "/spec/template/spec/containers/0/env",
                json!([{"name": "HOME", "value": "/tmp"}]),
            ),
            (
                "/spec/template/spec/containers/0/ports/0/hostPort",
                json!(8000),
                "/spec/template/spec/containers/0/ports/0",
                json!({"name": "api", "containerPort": 8000}),
            ),
            (
                "/spec/template/spec/containers/0/securityContext/capabilities/add",
                json!(["NET_ADMIN"]),
                "/spec/template/spec/containers/0/securityContext",
                json!({"capabilities": {"drop": ["ALL"]}}),
            ),
        ] {
            let mut live = wanted();
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            live.pointer_mut(parent).unwrap()[name] = value;
            let patch = additions(ChildKind::Deployment, &live, &wanted()).unwrap_or_else(|| panic!("{pointer}"));
            assert_eq!(patch.pointer(patched), Some(&left), "{pointer}: {patch}");
        }
    }

    #[test]
    fn a_command_or_variables_from_elsewhere_are_none_of_ours() {
        let mut live = wanted();
        let container = &mut live["spec"]["template"]["spec"]["containers"][0];
        container["command"] = json!(["sleep"]);
        container["envFrom"] = json!([{"secretRef": {"name": "s"}}]);
        container["image"] = json!("a");
        let patch = additions(ChildKind::Deployment, &live, &wanted()).unwrap();
        let cleaned = &patch["spec"]["template"]["spec"]["containers"][0];
        assert!(cleaned["command"].is_null() && cleaned["envFrom"].is_null(), "{patch}");
        assert_eq!(cleaned["image"], "a");
    }
}
