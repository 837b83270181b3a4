-- Health of a Rollout. A release that waits for manual action is Suspended. A release that was rolled
-- back is Degraded, because the revision in Git is not running.
local health = {status = "Progressing", message = "Waiting for the controller to process the spec"}
local status = obj.status
if status == nil or status.phase == nil then
  return health
end
if status.observedGeneration == nil or status.observedGeneration < obj.metadata.generation then
  return health
end
local healthOf = {Healthy = "Healthy", Degraded = "Degraded", Paused = "Suspended", Progressing = "Progressing"}
health.status = healthOf[status.phase] or "Unknown"
health.message = status.message or ""
return health
