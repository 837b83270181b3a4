-- Which actions a Rollout permits now.
local status = obj.status or {}
local stage = status.stage
local isReleasing = stage == "Progressing" or stage == "Promoting"
local pause = status.pause or {}
local workload = status.workload or {}
local isGivenBack = workload.phase == "GivingBack" or workload.phase == "GivenBack"
local isManaging = obj.spec ~= nil and obj.spec.mode ~= "Observe"

local permits = {
  ["abort"] = isReleasing,
  ["pause"] = isReleasing and pause.reason ~= "Command",
  ["promote"] = isReleasing and (pause.reason ~= nil or status.bake ~= nil),
  ["promote-full"] = isReleasing,
  ["restart"] = stage == "Stable",
  ["resume"] = pause.reason == "Command" or isGivenBack,
  ["retry"] = stage == "Aborted",
  ["skip-step"] = stage == "Progressing" and status.step ~= nil,
}

local actions = {}
for name, isPermitted in pairs(permits) do
  actions[name] = {["disabled"] = not (isManaging and isPermitted)}
end
return actions
