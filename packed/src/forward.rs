//! The pass: rows of a batch through all layers.

use std::sync::{Arc, PoisonError};

use rayon::prelude::*;

use crate::attention::{Queries, Seen, Work, attend};
use crate::beginning::{self, Beginning};
use crate::elementwise::{HeadNorm, Turns, gate, normalize};
use crate::model::{Layer, Model, ReadyLayer};
use crate::product::{Input, Into, Kernel, Rows, RowsMut, project};
use crate::rows::{Piece, Tile, tiles};
use crate::shape::Shape;

/// Rows of a tile: enough for products to be fast, few enough that what lies between them stays small.
pub(crate) const TILE: usize = 1_024;

/// It was stopped.
#[derive(Debug)]
pub(crate) struct Stopped;

/// The hidden state of each text's last token before the final norm, `[texts, hidden]`. No text is empty; `beginning`
/// stands before each of them and may be.
pub(crate) fn run(
    model: &Model,
    beginning: &[u32],
    texts: &[&[u32]],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f32>, Stopped> {
    let kept = {
        let kept = model.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone().filter(|kept| kept.tokens == beginning)
    };
    if kept.is_none() && !beginning.is_empty() {
        // Another one is coming; both at once would be twice the memory.
        *model.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    let mut pass = Pass::new(model, beginning, texts, kept.as_deref());
    let keeps = pass.computes_beginning && beginning::is_kept(beginning.len(), &model.shape);
    let mut layers = Vec::new();
    let mut room = vec![0.0; model.layers.iter().map(Layer::to_widen).max().unwrap_or(0)];
    for (number, layer) in model.layers.iter().enumerate() {
        let ready = layer.ready(&mut room);
        pass.layer(number, layer, &ready, stop)?;
        if keeps {
            layers.push(pass.begun.clone());
        }
    }
    if keeps {
        let beginning = Arc::new(Beginning { tokens: beginning.to_vec(), layers });
        *model.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(beginning);
    }
    Ok(pass.last.states)
}

/// What a batch needs beside the weights.
struct Pass<'a> {
    shape: &'a Shape,
    kernel: Option<Kernel>,
    /// Keys and values that an earlier batch left.
    kept: Option<&'a Beginning>,
    /// The first text of the rows is the beginning.
    computes_beginning: bool,
    /// Tokens of the beginning.
    beginning: usize,
    /// Rows of each text.
    lengths: Vec<usize>,
    tiles: Arc<[Tile]>,
    turns: Turns,
    /// The residual stream, `[rows, hidden]`.
    states: Vec<f32>,
    /// Position of each row.
    positions: Vec<usize>,
    /// Keys and values of the beginning in this layer, `[tokens, keys | values]`.
    begun: Vec<f32>,
    /// Those of a text that is longer than a tile, from its earlier tiles.
    carried: Vec<f32>,
    /// A tile after a norm, `[rows, hidden]`.
    normed: Vec<f32>,
    /// A tile between two products: `[rows, queries | keys | values]` or `[rows, gate | up]`.
    inner: Vec<f32>,
    /// Rows as products read them.
    words: Vec<u32>,
    last: Last,
}

/// The last row of each text: all that the last layer computes beyond keys and values.
struct Last {
    /// `[texts, queries]`.
    queries: Vec<f32>,
    /// `[texts, hidden]`.
    states: Vec<f32>,
}

impl<'a> Pass<'a> {
    fn new(model: &'a Model, beginning: &[u32], texts: &[&[u32]], kept: Option<&'a Beginning>) -> Self {
        let shape = &model.shape;
        let computes_beginning = kept.is_none() && !beginning.is_empty();
        let all: Vec<&[u32]> =
            computes_beginning.then_some(beginning).into_iter().chain(texts.iter().copied()).collect();
        let lengths: Vec<usize> = all.iter().map(|text| text.len()).collect();
        let rows = lengths.iter().sum::<usize>();
        let positions: Vec<usize> = all
            .iter()
            .enumerate()
            .flat_map(|(number, text)| {
                let first = if computes_beginning && number == 0 { 0 } else { beginning.len() };
                first..first + text.len()
            })
            .collect();
        let mut states = vec![0.0; rows * shape.hidden];
        let tokens: Vec<u32> = all.concat();
        let to = states.par_chunks_exact_mut(shape.hidden);
        to.zip(tokens).for_each(|(row, token)| model.table.copy_row(token as usize, row));
        let (tile, longest) = (rows.min(TILE), lengths.iter().copied().max().unwrap_or(0));
        let keys_values = 2 * shape.key_width();
        Self {
            shape,
            kernel: model.kernel,
            kept,
            computes_beginning,
            beginning: beginning.len(),
            tiles: tiles(&lengths, TILE).into(),
            lengths,
            turns: Turns::new(positions.iter().max().map_or(0, |position| position + 1), shape.head, shape.rotary_base),
            states,
            positions,
            begun: vec![0.0; if computes_beginning { beginning.len() * keys_values } else { 0 }],
            carried: vec![0.0; if longest > TILE { longest * keys_values } else { 0 }],
            normed: vec![0.0; tile * shape.hidden],
            inner: vec![0.0; tile * shape.attention_width().max(2 * shape.intermediate)],
            words: Vec::new(),
            last: Last {
                queries: vec![0.0; texts.len() * shape.query_width()],
                states: vec![0.0; texts.len() * shape.hidden],
            },
        }
    }

    fn layer(
        &mut self,
        number: usize,
        layer: &Layer,
        ready: &ReadyLayer<'_>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), Stopped> {
        let is_last = number + 1 == self.shape.layers;
        let tiles = Arc::clone(&self.tiles);
        for tile in tiles.iter() {
            if stop() {
                return Err(Stopped);
            }
            let ends: Vec<usize> = self.ends(tile).map(|(_, row)| row).collect();
            self.project_attention(tile, &ends, layer, ready, is_last);
            self.keep_keys(tile);
            self.attend(number, tile, is_last);
            if !is_last {
                self.project_output(tile, &ends, ready);
                let states = &mut self.states[tile.first * self.shape.hidden..][..tile.rows * self.shape.hidden];
                let room = (&mut self.normed[..], &mut self.inner[..], &mut self.words);
                feed_forward(states, &ends, room, self.shape, layer, ready);
            }
        }
        if is_last {
            self.finish(layer, ready, stop)?;
        }
        Ok(())
    }

    /// Norm, then queries, keys and values of a tile; of the last layer the queries of last rows only.
    fn project_attention(&mut self, tile: &Tile, ends: &[usize], layer: &Layer, ready: &ReadyLayer<'_>, is_last: bool) {
        let shape = self.shape;
        let (hidden, width, queries) = (shape.hidden, shape.attention_width(), shape.query_width());
        let states = &self.states[tile.first * hidden..][..tile.rows * hidden];
        let normed = &mut self.normed[..tile.rows * hidden];
        normalize_rows(states, &layer.attention_norm, shape, normed);
        let inner = &mut self.inner[..tile.rows * width];
        let input = Input::new(Rows::dense(normed, hidden), ends, ready.keys_values, &mut self.words);
        let keys_values =
            RowsMut { values: &mut inner[queries..], stride: width, count: tile.rows, columns: width - queries };
        project(keys_values, &input, ready.keys_values, Into::Replace);
        if !is_last {
            let queries = RowsMut { values: inner, stride: width, count: tile.rows, columns: queries };
            project(queries, &input, ready.queries, Into::Replace);
        }
        let positions = &self.positions[tile.first..][..tile.rows];
        let (query_norm, key_norm) = head_norms(layer, shape);
        inner.par_chunks_exact_mut(width).zip(positions).for_each(|(row, position)| {
            let turn = self.turns.of(*position);
            if !is_last {
                HeadNorm { turn, ..query_norm }.apply(&mut row[..queries]);
            }
            HeadNorm { turn, ..key_norm }.apply(&mut row[queries..queries + shape.key_width()]);
        });
        if is_last {
            self.project_last_queries(tile, layer, ready);
        }
    }

    fn project_last_queries(&mut self, tile: &Tile, layer: &Layer, ready: &ReadyLayer<'_>) {
        let shape = self.shape;
        let (hidden, queries) = (shape.hidden, shape.query_width());
        let ends: Vec<(usize, usize)> = self.ends(tile).collect();
        let Some((first, _)) = ends.first().copied() else { return };
        let mut normed = Vec::with_capacity(ends.len() * hidden);
        for (text, row) in &ends {
            normed.extend_from_slice(&self.normed[row * hidden..][..hidden]);
            let state = &self.states[(tile.first + row) * hidden..][..hidden];
            self.last.states[text * hidden..][..hidden].copy_from_slice(state);
        }
        let rows = &mut self.last.queries[first * queries..][..ends.len() * queries];
        let all: Vec<usize> = (0..ends.len()).collect();
        let input = Input::new(Rows::dense(&normed, hidden), &all, ready.queries, &mut self.words);
        project(RowsMut::dense(rows, queries), &input, ready.queries, Into::Replace);
        let (query_norm, _) = head_norms(layer, shape);
        for (row, (_, at)) in rows.chunks_exact_mut(queries).zip(ends) {
            HeadNorm { turn: self.turns.of(self.positions[tile.first + at]), ..query_norm }.apply(row);
        }
    }

    /// Number of each text that ends in a tile, the beginning not counted, and its last row within the tile.
    fn ends(&self, tile: &Tile) -> impl Iterator<Item = (usize, usize)> {
        let mut row = 0;
        tile.pieces.iter().filter_map(move |piece| {
            row += piece.rows;
            let text = self.text(piece)?;
            (piece.before + piece.rows == self.lengths[piece.text]).then_some((text, row - 1))
        })
    }

    /// Number of the text, the beginning not counted. None: it is the beginning.
    fn text(&self, piece: &Piece) -> Option<usize> {
        piece.text.checked_sub(usize::from(self.computes_beginning))
    }

    /// Copies keys and values that later tiles look at.
    fn keep_keys(&mut self, tile: &Tile) {
        let (width, queries) = (self.shape.attention_width(), self.shape.query_width());
        let keys_values = width - queries;
        let mut row = 0;
        for piece in &tile.pieces {
            let is_beginning = self.text(piece).is_none();
            if is_beginning || piece.before + piece.rows < self.lengths[piece.text] {
                let to = if is_beginning { &mut self.begun } else { &mut self.carried };
                let to = &mut to[piece.before * keys_values..][..piece.rows * keys_values];
                let from = self.inner[row * width..].chunks_exact(width);
                for (to, from) in to.chunks_exact_mut(keys_values).zip(from) {
                    to.copy_from_slice(&from[queries..]);
                }
            }
            row += piece.rows;
        }
    }

    /// Queries become answers, in place.
    fn attend(&mut self, number: usize, tile: &Tile, is_last: bool) {
        let shape = self.shape;
        let (width, queries, keys) = (shape.attention_width(), shape.query_width(), shape.key_width());
        let beginning = self.kept.map_or(self.begun.as_slice(), |kept| &kept.layers[number]);
        let dense = |values: &[f32], tokens: usize| {
            let values = &values[..tokens * 2 * keys];
            let first = values.as_ptr();
            (tokens > 0).then(|| Seen { keys: first, values: first.wrapping_add(keys), stride: 2 * keys, tokens })
        };
        let inner = self.inner[..tile.rows * width].as_mut_ptr();
        let last_queries = self.last.queries.as_mut_ptr();
        let mut row = 0;
        let mut works = Vec::with_capacity(tile.pieces.len());
        for piece in &tile.pieces {
            let first = inner.wrapping_add(row * width);
            row += piece.rows;
            let own_keys = first.wrapping_add(queries).cast_const();
            let own = Seen { keys: own_keys, values: own_keys.wrapping_add(keys), stride: width, tokens: piece.rows };
            let text = self.text(piece);
            let before = match text {
                None => [dense(&self.begun, piece.before), None],
                Some(_) => [dense(beginning, self.beginning), dense(&self.carried, piece.before)],
            };
            let queries = if !is_last {
                Queries { at: first, stride: width, tokens: piece.rows }
            } else if let Some(text) = text.filter(|_| piece.before + piece.rows == self.lengths[piece.text]) {
                Queries { at: last_queries.wrapping_add(text * queries), stride: queries, tokens: 1 }
            } else {
                continue;
            };
            works.push(Work { queries, seen: [before[0], before[1], Some(own)] });
        }
        #[expect(unsafe_code, reason = "queries and keys lie beside each other in the rows of one buffer")]
        // Safety: each piece has rows of its own within the tile, or a row of its own among the last queries, and of
        // a row the queries are apart from keys and values; the other places are buffers of their own, as long as
        // `dense` checked.
        unsafe {
            attend(&works, shape, self.kernel);
        }
    }

    fn project_output(&mut self, tile: &Tile, ends: &[usize], ready: &ReadyLayer<'_>) {
        let shape = self.shape;
        let (hidden, width, queries) = (shape.hidden, shape.attention_width(), shape.query_width());
        let answers =
            Rows { values: &self.inner[..tile.rows * width], stride: width, count: tile.rows, columns: queries };
        let states = &mut self.states[tile.first * hidden..][..tile.rows * hidden];
        let input = Input::new(answers, ends, ready.output, &mut self.words);
        project(RowsMut::dense(states, hidden), &input, ready.output, Into::Add);
    }

    /// The rest of the last layer, for last rows only.
    fn finish(
        &mut self,
        layer: &Layer,
        ready: &ReadyLayer<'_>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), Stopped> {
        let (hidden, queries) = (self.shape.hidden, self.shape.query_width());
        let rows = (self.normed.len() / hidden).max(1);
        let Last { queries: answers, states } = &mut self.last;
        for (states, answers) in states.chunks_mut(rows * hidden).zip(answers.chunks(rows * queries)) {
            if stop() {
                return Err(Stopped);
            }
            let all: Vec<usize> = (0..states.len() / hidden).collect();
            let input = Input::new(Rows::dense(answers, queries), &all, ready.output, &mut self.words);
            project(RowsMut::dense(states, hidden), &input, ready.output, Into::Add);
            let room = (&mut self.normed[..], &mut self.inner[..], &mut self.words);
            feed_forward(states, &all, room, self.shape, layer, ready);
        }
        Ok(())
    }
}

/// Norms of queries, divided by the root of a head's width, and of keys; without a position yet.
fn head_norms<'a>(layer: &'a Layer, shape: &Shape) -> (HeadNorm<'a>, HeadNorm<'a>) {
    #[expect(clippy::cast_precision_loss, reason = "no head is longer than float32 counts")]
    let scale = 1.0 / (shape.head as f32).sqrt();
    let norm = |weight, scale| HeadNorm { weight, epsilon: shape.norm_epsilon, scale, turn: (&[], &[]) };
    (norm(&layer.query_norm, scale), norm(&layer.key_norm, 1.0))
}

fn normalize_rows(states: &[f32], weight: &[f32], shape: &Shape, to: &mut [f32]) {
    let rows = states.par_chunks_exact(shape.hidden).zip(to.par_chunks_exact_mut(shape.hidden));
    rows.for_each(|(row, to)| normalize(row, weight, shape.norm_epsilon, to));
}

/// `states += down · (silu(gate · n) · (up · n))`, `n` the normed states. `ends`: rows that end a text. `room`: `normed` and
/// `inner` of that many rows, and words.
fn feed_forward(
    states: &mut [f32],
    ends: &[usize],
    (normed, inner, words): (&mut [f32], &mut [f32], &mut Vec<u32>),
    shape: &Shape,
    layer: &Layer,
    ready: &ReadyLayer<'_>,
) {
    let (hidden, intermediate) = (shape.hidden, shape.intermediate);
    let rows = states.len() / hidden;
    let normed = &mut normed[..rows * hidden];
    normalize_rows(states, &layer.feed_forward_norm, shape, normed);
    let inner = &mut inner[..rows * 2 * intermediate];
    let gates_and_ups = RowsMut::dense(inner, 2 * intermediate);
    let input = Input::new(Rows::dense(normed, hidden), ends, ready.gate_up, words);
    project(gates_and_ups, &input, ready.gate_up, Into::Replace);
    inner.par_chunks_exact_mut(2 * intermediate).for_each(|row| {
        let (gates, ups) = row.split_at_mut(intermediate);
        gate(gates, ups);
    });
    let gated = Rows { values: inner, stride: 2 * intermediate, count: rows, columns: intermediate };
    let input = Input::new(gated, ends, ready.down, words);
    project(RowsMut::dense(states, hidden), &input, ready.down, Into::Add);
}
