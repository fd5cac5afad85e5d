//! What the programs of the node are told. Pure.

use std::path::Path;

use serde_json::json;

use super::network;

/// containerd's socket, in the node's folder.
pub(super) const CONTAINERD_SOCKET: &str = "containerd.sock";

/// containerd's configuration.
pub(super) fn containerd(programs: &Path, folder: &Path, pause: &str) -> String {
    let (programs, folder) = (programs.display(), folder.display());
    format!(
        r#"version = 3
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"

[grpc]
address = "{folder}/{CONTAINERD_SOCKET}"

[ttrpc]
address = "{folder}/{CONTAINERD_SOCKET}.ttrpc"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE, as in many containers, no score may be lowered.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{programs}/cni"]
conf_dir = "{folder}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{programs}/runc"
SystemdCgroup = false
"#
    )
}

/// How a pod gets its address: a link of its own to the node, which routes. Over a bridge, answers of one pod to another
/// would pass beside what leads Services to pods.
pub(super) fn pod_network(folder: &Path) -> String {
    let addresses = folder.join("addresses");
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": addresses,
                "ranges": [[{"subnet": network::PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    format!("{network:#}\n")
}

/// The kubelet's configuration.
pub(super) fn kubelet(folder: &Path, authority: &Path, cgroup: &str) -> String {
    let settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network::ADDRESS.to_string(),
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": false},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{}/{CONTAINERD_SOCKET}", folder.display()),
        "clusterDNS": [network::ADDRESS.to_string()],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        // A full disk of the machine is not what is tested.
        "evictionHard": {"memory.available": "100Mi"},
        "podLogsDir": format!("{}/pod-logs", folder.display()),
        // Seconds instead of a minute until a changed Secret is in a pod.
        "syncFrequency": "5s",
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
        // A container that failed is tried again after at most so long; five minutes otherwise.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
    });
    format!("{settings:#}\n")
}

/// CoreDNS' configuration: names of Services and nothing else.
pub(super) fn dns(kubeconfig: &Path) -> String {
    format!(
        ".:53 {{\n    bind {}\n    errors\n    kubernetes cluster.local {{\n        kubeconfig {}\n    }}\n}}\n",
        network::ADDRESS,
        kubeconfig.display()
    )
}
