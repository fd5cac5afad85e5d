// Nothing of these is compiled: they carry definitions of kinds that objects of ours meet in a cluster.
module rerank.semantik.dev/tests/cluster/definitions

go 1.26.0

require (
	github.com/kedacore/keda/v2 v2.21.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
