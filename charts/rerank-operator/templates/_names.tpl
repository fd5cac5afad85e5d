{{/* Names, labels and image references that several templates share. */}}

{{- define "rerank-operator.fullname" -}}
{{- $own := .Release.Name -}}
{{- if not (contains .Chart.Name $own) -}}{{- $own = printf "%s-%s" $own .Chart.Name -}}{{- end -}}
{{- /* Room for the longest suffix. */ -}}
{{- .Values.fullnameOverride | default $own | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "rerank-operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "rerank-operator.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* What chooses the operator's pods. It never changes: a Deployment's selector cannot. */}}
{{- define "rerank-operator.selector" -}}
app.kubernetes.io/name: rerank-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "rerank-operator.labels" -}}
{{ include "rerank-operator.selector" . }}
app.kubernetes.io/part-of: rerank
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* A reference, of (root, image, what the default tag ends with). */}}
{{- define "rerank-operator.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- with $root.Values.images.registry -}}{{ trimSuffix "/" . }}/{{- end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ $image.tag | default (printf "%s%s" $root.Chart.AppVersion (index . 2)) }}{{- end -}}
{{- end -}}

{{- define "rerank-operator.server-image" -}}
{{- include "rerank-operator.image" (list . .Values.images.serverCpu "-cpu") -}}
{{- end -}}

{{/* Both pods of the chart satisfy Pod Security `restricted`. */}}
{{- define "rerank-operator.pod-security" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "rerank-operator.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
