//! BM25 over the corpus, the lexical order that two stages have to beat. Pure.

use bm25::{Embedder, EmbedderBuilder, Scorer, Tokenizer};

use crate::corpus::Document;

/// Lower-cased runs of letters and digits.
#[derive(Clone, Copy, Debug, Default)]
struct Words;

impl Tokenizer for Words {
    fn tokenize(&self, text: &str) -> Vec<String> {
        text.split(|letter: char| !letter.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect()
    }
}

/// Documents ready to be searched, with k1 = 1.2 and b = 0.75.
pub struct Bm25 {
    embedder: Embedder<u32, Words>,
    scorer: Scorer<usize, u32>,
    documents: usize,
}

impl std::fmt::Debug for Bm25 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Bm25").field("documents", &self.documents).finish_non_exhaustive()
    }
}

impl Bm25 {
    /// Indexes the texts.
    pub fn new(documents: &[Document]) -> Self {
        let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
        let embedder: Embedder<u32, Words> =
            EmbedderBuilder::with_tokenizer_and_fit_to_corpus(Words, &texts).k1(1.2).b(0.75).build();
        let mut scorer = Scorer::new();
        for (index, text) in texts.iter().enumerate() {
            scorer.upsert(&index, embedder.embed(text));
        }
        Self { embedder, scorer, documents: texts.len() }
    }

    /// Positions of the documents that share a word with the query, best first.
    pub fn search(&self, query: &str) -> Vec<usize> {
        self.scorer.matches(&self.embedder.embed(query)).into_iter().map(|found| found.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_with_the_rare_word_comes_first_and_one_without_a_shared_word_not_at_all() {
        let document = |id: &str, text: &str| Document { id: id.into(), title: String::new(), text: text.into() };
        let documents = [
            document("a", "the cat sat on the mat"),
            document("b", "the dog sat on the quince"),
            document("c", "rain falls"),
        ];
        assert_eq!(Bm25::new(&documents).search("The Quince, the"), [1, 0]);
    }
}
