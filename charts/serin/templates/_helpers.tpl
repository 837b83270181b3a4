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

{{/* Name of cluster-scoped objects. It depends on the namespaces of the Rollouts, so that releases
for different namespaces do not conflict. */}}
{{- define "serin.clusterName" -}}
{{- if and .Values.watchNamespaces .Values.namespaceSelector -}}
{{- fail "namespaceSelector: remove it, or remove watchNamespaces" -}}
{{- end -}}
{{- if eq (len .Values.watchNamespaces) 1 -}}
{{- printf "%s-%s" (include "serin.fullname" .) (first .Values.watchNamespaces) | trunc 60 | trimSuffix "-" -}}
{{- else if or .Values.watchNamespaces .Values.namespaceSelector -}}
{{- $scope := list .Values.watchNamespaces .Values.namespaceSelector | toJson | sha256sum | trunc 8 -}}
{{- printf "%s-%s" (include "serin.fullname" .) $scope -}}
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

{{/* Limits an admission policy to the namespaces of the Rollouts. With namespaceSelector it applies
to all: an object may be created before its namespace is selected. */}}
{{- define "serin.policyNamespace" -}}
{{- if .Values.watchNamespaces -}}
namespaceSelector:
  matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: In, values: {{ .Values.watchNamespaces | toJson }}}
{{- end -}}
{{- end -}}

{{/* namespaceSelector in the syntax of kubectl get -l. Empty if it is not set. */}}
{{- define "serin.namespaceSelector" -}}
{{- $terms := list -}}
{{- range $key, $value := .Values.namespaceSelector.matchLabels -}}
{{- $terms = append $terms (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- range .Values.namespaceSelector.matchExpressions -}}
{{- if eq .operator "In" -}}
{{- $terms = append $terms (printf "%s in (%s)" .key (join "," .values)) -}}
{{- else if eq .operator "NotIn" -}}
{{- $terms = append $terms (printf "%s notin (%s)" .key (join "," .values)) -}}
{{- else if eq .operator "Exists" -}}
{{- $terms = append $terms .key -}}
{{- else -}}
{{- $terms = append $terms (printf "!%s" .key) -}}
{{- end -}}
{{- end -}}
{{- join "," $terms -}}
{{- end -}}

{{/* A CEL expression that is true in the namespaces of the Rollouts. Empty if these are all. */}}
{{- define "serin.isSelectedNamespace" -}}
{{- if .Values.watchNamespaces -}}
request.namespace in {{ .Values.watchNamespaces | toJson | replace "\"" "'" }}
{{- else if .Values.namespaceSelector -}}
{{- $terms := list -}}
{{- range $key, $value := .Values.namespaceSelector.matchLabels -}}
{{- $terms = append $terms (printf "('%s' in variables.namespaceLabels && variables.namespaceLabels['%s'] == '%s')" $key $key $value) -}}
{{- end -}}
{{- range .Values.namespaceSelector.matchExpressions -}}
{{- if eq .operator "Exists" -}}
{{- $terms = append $terms (printf "'%s' in variables.namespaceLabels" .key) -}}
{{- else if eq .operator "DoesNotExist" -}}
{{- $terms = append $terms (printf "!('%s' in variables.namespaceLabels)" .key) -}}
{{- else -}}
{{- $is := printf "('%s' in variables.namespaceLabels && variables.namespaceLabels['%s'] in %s)" .key .key (.values | toJson | replace "\"" "'") -}}
{{- $terms = append $terms (ternary $is (printf "!%s" $is) (eq .operator "In")) -}}
{{- end -}}
{{- end -}}
{{- join " && " $terms -}}
{{- end -}}
{{- end -}}

{{/* Arguments for the namespaces of the Rollouts. */}}
{{- define "serin.scopeArguments" -}}
{{- with .Values.watchNamespaces }}
- --watch-namespaces={{ join "," . }}
{{- end }}
{{- with include "serin.namespaceSelector" . }}
- {{ printf "--namespace-selector=%s" . | quote }}
{{- end }}
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

{{/* Permissions of the uninstall Job in the namespaces of the Rollouts. */}}
{{- define "serin.uninstallRules" -}}
- apiGroups: [serin.dev]
  resources: [rollouts]
  verbs: [get, list, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, patch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, grpcroutes, tlsroutes, tcproutes]
  verbs: [get, list, patch]
- apiGroups: [networking.istio.io]
  resources: [virtualservices]
  verbs: [get, list, patch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, patch]
- apiGroups: [traefik.io]
  resources: [traefikservices, ingressroutes]
  verbs: [get, list, patch]
- apiGroups: [projectcontour.io]
  resources: [httpproxies]
  verbs: [get, list, patch]
- apiGroups: [apisix.apache.org]
  resources: [apisixroutes]
  verbs: [get, list, patch]
{{- end -}}

{{/* Arguments for the timing of the leader election. */}}
{{- define "serin.leaseArguments" -}}
- --lease-duration={{ .Values.leaseDuration }}
{{- with .Values.leaseRenewDeadline }}
- --lease-renew-deadline={{ . }}
{{- end }}
{{- with .Values.leaseRenewInterval }}
- --lease-renew-interval={{ . }}
{{- end }}
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
- apiGroups: [serin.dev]
  resources: [analysistemplates]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch, create, patch, delete]
# Deployments whose pods a Rollout takes over or gives back.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# An autoscaler of a Deployment delays its takeover.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# Restarts, within the disruption budgets of the pods.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, grpcroutes, tlsroutes, tcproutes]
  verbs: [get, list, watch, patch]
- apiGroups: [networking.istio.io]
  resources: [virtualservices]
  verbs: [get, list, watch, patch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch, patch]
- apiGroups: [traefik.io]
  resources: [traefikservices, ingressroutes]
  verbs: [get, list, watch, patch]
- apiGroups: [projectcontour.io]
  resources: [httpproxies]
  verbs: [get, list, watch, patch]
- apiGroups: [apisix.apache.org]
  resources: [apisixroutes]
  verbs: [get, list, watch, patch]
# Events of pods that cannot start.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
