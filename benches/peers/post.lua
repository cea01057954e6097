-- Posts that go round the assets; the argument is the size of the body.
local assets, at, body = { "BTC", "ETH", "DOGE" }, 0, ""
init = function(args) body = string.rep("x", tonumber(args[1])) end
request = function()
   at = at % #assets + 1
   return wrk.format("POST", "/v1/predict/" .. assets[at], nil, body)
end
