//! Does it fit, and can it answer? What nodes and pods say, in words. Pure.

use rerank_crds::rerank_deployment::conditions::Reason;

use super::{Seen, Template};
use crate::controller::nodes::{Fit, Shortage, UnknownFit, gigabytes};
use crate::controller::pods::Trouble;

pub(super) fn preflight(seen: &Seen<'_>, accepted: &Trouble) -> Trouble {
    if accepted.reason == Reason::InvalidSpec {
        return Trouble::new(Reason::NotChecked, "the object is not accepted");
    }
    // Pods of before have looked at something else.
    if let (Template::HeldBack, Fit::TooLarge(shortage)) = (seen.template, &seen.fit) {
        let stay = if seen.deployment.is_some() { "; its pods stay what they were" } else { "" };
        return Trouble::new(Reason::InsufficientMemory, format!("{}{stay}", shortage_words(shortage)));
    }
    if let Some(finding) = &seen.pods.finding {
        return finding.clone();
    }
    if seen.pods.passed {
        return Trouble::new(Reason::Passed, "a pod has looked, and found nothing that keeps it from answering");
    }
    match &seen.fit {
        Fit::Fits => Trouble::new(Reason::Fits, "a node can hold it; no pod has looked yet"),
        Fit::TooLarge(shortage) => Trouble::new(Reason::InsufficientMemory, shortage_words(shortage)),
        Fit::Unknown(why) => unknown_fit(why),
    }
}

/// Both numbers, and what was computed to make it fit.
fn shortage_words(Shortage { needed_bytes, found_bytes, of, cures }: &Shortage) -> String {
    let (needed, found) = (gigabytes(*needed_bytes, true), gigabytes(*found_bytes, false));
    let cure = if cures.is_empty() {
        "only a larger node holds it".to_owned()
    } else {
        format!("it would fit with {}, or on a larger node", cures.join(", or with "))
    };
    format!("it needs {needed} of {of}, the largest node has {found}; {cure}")
}

fn unknown_fit(why: &UnknownFit) -> Trouble {
    match why {
        UnknownFit::NotReadable => {
            Trouble::new(Reason::NodesNotReadable, "nodes may not be read; the scheduler will tell")
        }
        UnknownFit::Refused(words) => {
            Trouble::new(Reason::NodesNotReadable, format!("nodes cannot be read, so the scheduler will tell: {words}"))
        }
        UnknownFit::NoUsableNode { nodes: 0 } => Trouble::new(Reason::NoNodeYet, "there are no nodes now"),
        UnknownFit::NoUsableNode { nodes } => Trouble::new(
            Reason::NoNodeYet,
            format!(
                "of {nodes} nodes none takes these pods now: they are cordoned, lack the labels of podTemplate.nodeSelector, or have taints \
                 that podTemplate.tolerations does not name"
            ),
        ),
        UnknownFit::NoNode { resource, needed, found } => Trouble::new(
            Reason::NoNodeYet,
            format!("a pod needs {resource}: {needed}; of the nodes that it may run on none has more than {found} now"),
        ),
        UnknownFit::Elastic(Shortage { needed_bytes, found_bytes, of, .. }) => {
            let (needed, found) = (gigabytes(*needed_bytes, true), gigabytes(*found_bytes, false));
            let words = format!("it needs {needed} of {of}, the largest node of now has {found}; others may come");
            Trouble::new(Reason::NoNodeYet, words)
        }
        UnknownFit::NoMemoryLabel => Trouble::new(
            Reason::MemoryUnknown,
            "nodes do not say how much memory their GPUs have (label nvidia.com/gpu.memory); accelerator.gpu.memoryBytes can",
        ),
        UnknownFit::UnknownModel(model) => Trouble::new(
            Reason::MemoryUnknown,
            format!("the catalogue does not know the shape of {model}; the pod will look"),
        ),
        UnknownFit::Claims => Trouble::new(Reason::MemoryUnknown, "claims of devices are judged by the scheduler"),
    }
}
