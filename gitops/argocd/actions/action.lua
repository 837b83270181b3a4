local verb = "abort"
-- The account with which Argo CD writes to the cluster. The API server refuses a command whose
-- requestedBy is another one. Change it if Argo CD has other names or manages another cluster.
local account = "system:serviceaccount:argocd:argocd-server"

-- As kubectl does: the command is refused if the release has moved on in the meantime.
local status = obj.status or {}
local preconditions = {revision = status.currentRevision}
if (verb == "promote" or verb == "skipStep") and status.step ~= nil then
  preconditions.step = status.step.index
end

local command = {
  apiVersion = "serin.dev/v1alpha1",
  kind = "RolloutCommand",
  metadata = {
    name = string.sub(obj.metadata.name, 1, 63) .. "-" .. string.lower(verb) .. "-" .. tostring(os.time()),
    namespace = obj.metadata.namespace,
  },
  spec = {
    rolloutRef = {name = obj.metadata.name},
    verb = verb,
    reason = "action of Argo CD",
    requestedBy = account,
  },
}
if next(preconditions) ~= nil then
  command.spec.preconditions = preconditions
end
return {{operation = "create", resource = command}}
