//! A model in memory, and its loading.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::beginning::Beginning;
use crate::linear::{Linear, Way};
use crate::matrix::Matrix;
use crate::product::{Kernel, Weights};
use crate::shape::Shape;
use crate::weights::{LoadError, Tensor, WeightFiles};

/// What a model answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Vectors; tensors carry no prefix.
    Vectors,
    /// Logits, by the embedding table.
    TiedHead,
    /// Logits, by a table of its own.
    SeparateHead,
}

/// A model that can run.
#[derive(Debug)]
pub struct Model {
    pub(crate) shape: Shape,
    /// What products go through; `None`: the crate `gemm`.
    pub(crate) kernel: Option<Kernel>,
    /// `[vocabulary, hidden]`.
    pub(crate) table: Matrix,
    pub(crate) layers: Vec<Layer>,
    /// `[hidden]`.
    pub(crate) norm: Vec<f32>,
    head: Head,
    /// The last beginning that several texts had.
    pub(crate) kept: Mutex<Option<Arc<Beginning>>>,
}

/// Weights of a layer.
#[derive(Debug)]
pub(crate) struct Layer {
    /// `[hidden]`.
    pub(crate) attention_norm: Vec<f32>,
    /// `[queries, hidden]`.
    queries: Linear,
    /// `[keys | values, hidden]`.
    keys_values: Linear,
    /// `[head]`.
    pub(crate) query_norm: Vec<f32>,
    /// `[head]`.
    pub(crate) key_norm: Vec<f32>,
    /// `[hidden, queries]`.
    output: Linear,
    /// `[hidden]`.
    pub(crate) feed_forward_norm: Vec<f32>,
    /// `[gate | up, hidden]`.
    gate_up: Linear,
    /// `[hidden, intermediate]`.
    down: Linear,
}

/// Weights of a layer as products read them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadyLayer<'a> {
    pub(crate) queries: Weights<'a>,
    pub(crate) keys_values: Weights<'a>,
    pub(crate) output: Weights<'a>,
    pub(crate) gate_up: Weights<'a>,
    pub(crate) down: Weights<'a>,
}

/// Where the rows of the output head come from.
#[derive(Debug)]
enum Head {
    None,
    Table,
    /// Of a table of its own two rows are ever needed; they are read when they first are.
    File {
        tensor: Tensor,
        rows: Mutex<HashMap<u32, Arc<[f32]>>>,
    },
}

impl Model {
    /// Reads a model from its safetensors files, on the threads of the rayon pool that this is called in. `progress` is
    /// told from any of them how many bytes more have been read.
    pub fn load(
        files: &[PathBuf],
        shape: Shape,
        output: Output,
        way: Way,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self, LoadError> {
        let files = WeightFiles::open(files, progress)?;
        let prefix = if output == Output::Vectors { "" } else { "model." };
        let head = match output {
            Output::Vectors => Head::None,
            Output::TiedHead => Head::Table,
            Output::SeparateHead => {
                let tensor = files.find("lm_head.weight", &[shape.vocabulary, shape.hidden])?;
                Head::File { tensor, rows: Mutex::default() }
            }
        };
        let table = [(format!("{prefix}embed_tokens.weight"), shape.vocabulary)];
        Ok(Self {
            table: files.matrix(&table, shape.hidden, way.holding)?,
            layers: (0..shape.layers)
                .map(|layer| Layer::load(&files, &format!("{prefix}layers.{layer}."), &shape, way))
                .collect::<Result<_, _>>()?,
            norm: files.vector(&format!("{prefix}norm.weight"), shape.hidden)?,
            head,
            kept: Mutex::default(),
            kernel: way.kernel,
            shape,
        })
    }

    /// What decides how it is computed.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// A row of the output head: what a token's logit is computed with.
    pub(crate) fn head_row(&self, token: u32) -> Result<Arc<[f32]>, LoadError> {
        match &self.head {
            Head::None => Err(LoadError::Missing { tensor: "lm_head.weight".to_owned() }),
            Head::Table => {
                let mut row = vec![0.0; self.shape.hidden];
                self.table.copy_row(token as usize, &mut row);
                Ok(row.into())
            }
            Head::File { tensor, rows } => {
                let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(row) = rows.get(&token) {
                    return Ok(Arc::clone(row));
                }
                let row: Arc<[f32]> = tensor.row(token as usize)?.into();
                rows.insert(token, Arc::clone(&row));
                Ok(row)
            }
        }
    }
}

impl Layer {
    fn load(files: &WeightFiles<'_>, prefix: &str, shape: &Shape, way: Way) -> Result<Self, LoadError> {
        let name = |name: &str| format!("{prefix}{name}.weight");
        let stacked = |parts: &[(&str, usize)], columns, norm: Option<&[f32]>| {
            let parts: Vec<_> = parts.iter().map(|(part, rows)| (name(part), *rows)).collect();
            files.linear(&parts, columns, norm, way)
        };
        let (hidden, queries, keys) = (shape.hidden, shape.query_width(), shape.key_width());
        let attention_norm = files.vector(&name("input_layernorm"), hidden)?;
        let feed_forward_norm = files.vector(&name("post_attention_layernorm"), hidden)?;
        let (before_attention, before_feed_forward) = (Some(&attention_norm[..]), Some(&feed_forward_norm[..]));
        let keys_values = [("self_attn.k_proj", keys), ("self_attn.v_proj", keys)];
        let gate_up = [("mlp.gate_proj", shape.intermediate), ("mlp.up_proj", shape.intermediate)];
        Ok(Self {
            queries: stacked(&[("self_attn.q_proj", queries)], hidden, before_attention)?,
            keys_values: stacked(&keys_values, hidden, before_attention)?,
            query_norm: files.vector(&name("self_attn.q_norm"), shape.head)?,
            key_norm: files.vector(&name("self_attn.k_norm"), shape.head)?,
            output: stacked(&[("self_attn.o_proj", hidden)], queries, None)?,
            gate_up: stacked(&gate_up, hidden, before_feed_forward)?,
            down: stacked(&[("mlp.down_proj", hidden)], shape.intermediate, None)?,
            attention_norm,
            feed_forward_norm,
        })
    }

    fn linears(&self) -> [&Linear; 5] {
        [&self.queries, &self.keys_values, &self.output, &self.gate_up, &self.down]
    }

    /// Values of room that [`ready`](Self::ready) needs.
    pub(crate) fn to_widen(&self) -> usize {
        self.linears().iter().map(|linear| linear.to_widen()).sum()
    }

    /// Its weights as products read them, for as long as the room is lent.
    pub(crate) fn ready<'a>(&'a self, room: &'a mut [f32]) -> ReadyLayer<'a> {
        let mut room = room;
        let mut next = |linear: &'a Linear| {
            let (own, rest) = std::mem::take(&mut room).split_at_mut(linear.to_widen());
            room = rest;
            linear.ready(own)
        };
        let [queries, keys_values, output, gate_up, down] = self.linears().map(&mut next);
        ReadyLayer { queries, keys_values, output, gate_up, down }
    }
}
