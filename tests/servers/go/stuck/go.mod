module superd.test/servers/stuck

go 1.22.0
