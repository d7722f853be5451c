module superd.test/servers/hupproof

go 1.22.0
