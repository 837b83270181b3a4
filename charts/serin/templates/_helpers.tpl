{{- define "serin.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Name of cluster-scoped objects. It contains watchNamespace, so that releases for different
namespaces do not conflict. */}}
{{- define "serin.clusterName" -}}
{{- if .Values.watchNamespace -}}
{{- printf "%s-%s" (include "serin.fullname" .) .Values.watchNamespace | trunc 60 | trimSuffix "-" -}}
{{- else -}}
{{- include "serin.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "serin.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "serin.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: set the name of the ServiceAccount, or set serviceAccount.create to true" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Name of the admission policy for commands and of its binding. Empty if the chart does not create
it. */}}
{{- define "serin.commandsPolicy" -}}
{{- if and .Values.admissionPolicy.create .Values.admissionPolicy.commands -}}
{{- include "serin.clusterName" . }}-commands
{{- end -}}
{{- end -}}

{{/* Limits an admission policy to the namespace of the Rollouts. */}}
{{- define "serin.policyNamespace" -}}
{{- if .Values.watchNamespace -}}
namespaceSelector:
  matchLabels: {kubernetes.io/metadata.name: {{ .Values.watchNamespace | quote }}}
{{- end -}}
{{- end -}}

{{- define "serin.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "serin.labels" -}}
{{ include "serin.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "serin.priorityClassName" -}}
{{- if .Values.priorityClassName -}}
{{- .Values.priorityClassName -}}
{{- else if .Values.priorityClass.create -}}
{{- include "serin.clusterName" . -}}
{{- end -}}
{{- end -}}

{{- define "serin.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Annotations of the post-delete hooks. The argument is the hook weight. */}}
{{- define "serin.uninstallHook" -}}
helm.sh/hook: post-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* Permissions of the controller in the namespaces of the Rollouts. The tests of the controller
compare them with the requests that it sends. */}}
{{- define "serin.rules" -}}
- apiGroups: [serin.dev]
  resources: [rollouts]
  verbs: [get, list, watch, patch]
- apiGroups: [serin.dev]
  resources: [rollouts/status]
  verbs: [patch]
# Required for owner references with blockOwnerDeletion.
- apiGroups: [serin.dev]
  resources: [rollouts/finalizers]
  verbs: [update]
- apiGroups: [serin.dev]
  resources: [rolloutcommands]
  verbs: [list, watch, delete]
- apiGroups: [serin.dev]
  resources: [rolloutcommands/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, patch]
# Events of pods that cannot start.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
