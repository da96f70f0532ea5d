package compute

// Running tells whether a server runs: what is at its addresses answers then.
func (s *Service) Running(server string) bool {
	v := s.servers.Get(server)
	return v != nil && v.Status() == "ACTIVE"
}
