package kubernetes

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// authorize lets administrators do everything and others what the roles bound to them allow.
func (s *Server) authorize(who user, verb string, r *resource, subresource, namespace, name string) error {
	if r.gvk.Group == authorizationv1.GroupName || r.gvk.Group == authenticationv1.GroupName {
		return nil // anyone may ask about themselves
	}
	ask := authorizationv1.ResourceAttributes{Verb: verb, Group: r.gvk.Group, Resource: r.plural, Subresource: subresource, Namespace: namespace, Name: name}
	s.store.mu.RLock()
	allowed, err := s.allowed(who, ask)
	s.store.mu.RUnlock()
	if err != nil {
		return err
	}
	if allowed {
		return nil
	}
	plural := r.plural
	if subresource != "" {
		plural += "/" + subresource
	}
	scope := "at the cluster scope"
	if namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", namespace)
	}
	return apierrors.NewForbidden(r.groupResource(), name,
		fmt.Errorf("User %q cannot %s resource %q in API group %q %s", who.name, verb, plural, r.gvk.Group, scope))
}

// allowed asks the bindings. The caller holds the lock.
func (s *Server) allowed(who user, ask authorizationv1.ResourceAttributes) (bool, error) {
	if slices.Contains(who.groups, groupMasters) {
		return true, nil
	}
	for _, e := range s.store.list("clusterrolebindings.rbac.authorization.k8s.io", "") {
		obj, err := s.decode(e)
		if err != nil {
			return false, err
		}
		b := obj.(*rbacv1.ClusterRoleBinding)
		if bound(who, b.Subjects, "") && s.roleAllows(b.RoleRef, "", ask) {
			return true, nil
		}
	}
	if ask.Namespace == "" {
		return false, nil
	}
	for _, e := range s.store.list("rolebindings.rbac.authorization.k8s.io", ask.Namespace) {
		obj, err := s.decode(e)
		if err != nil {
			return false, err
		}
		b := obj.(*rbacv1.RoleBinding)
		if bound(who, b.Subjects, ask.Namespace) && s.roleAllows(b.RoleRef, ask.Namespace, ask) {
			return true, nil
		}
	}
	return false, nil
}

func bound(who user, subjects []rbacv1.Subject, namespace string) bool {
	for _, subject := range subjects {
		switch subject.Kind {
		case rbacv1.UserKind:
			if subject.Name == who.name {
				return true
			}
		case rbacv1.GroupKind:
			if slices.Contains(who.groups, subject.Name) {
				return true
			}
		case rbacv1.ServiceAccountKind:
			ns := subject.Namespace
			if ns == "" {
				ns = namespace
			}
			if who.name == "system:serviceaccount:"+ns+":"+subject.Name {
				return true
			}
		}
	}
	return false
}

func (s *Server) roleAllows(ref rbacv1.RoleRef, namespace string, ask authorizationv1.ResourceAttributes) bool {
	key := objectKey{"clusterroles.rbac.authorization.k8s.io", "", ref.Name}
	if ref.Kind == "Role" {
		key = objectKey{"roles.rbac.authorization.k8s.io", namespace, ref.Name}
	}
	e := s.store.get(key)
	if e == nil {
		return false
	}
	obj, err := s.decode(e)
	if err != nil {
		return false
	}
	switch role := obj.(type) {
	case *rbacv1.ClusterRole:
		return rulesAllow(role.Rules, ask)
	case *rbacv1.Role:
		return rulesAllow(role.Rules, ask)
	}
	return false
}

func rulesAllow(rules []rbacv1.PolicyRule, ask authorizationv1.ResourceAttributes) bool {
	wanted := ask.Resource
	if ask.Subresource != "" {
		wanted += "/" + ask.Subresource
	}
	for _, rule := range rules {
		if !has(rule.Verbs, ask.Verb) || !has(rule.APIGroups, ask.Group) {
			continue
		}
		if !has(rule.Resources, wanted) && !(ask.Subresource != "" && slices.Contains(rule.Resources, "*/"+ask.Subresource)) {
			continue
		}
		if len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, ask.Name) {
			return true
		}
	}
	return false
}

func has(list []string, want string) bool {
	return slices.Contains(list, want) || slices.Contains(list, "*")
}

// serveReview answers the questions about access; they are created, but not stored.
func (s *Server) serveReview(q *request) (bool, error) {
	if q.res.gvk.Group != authorizationv1.GroupName && q.res.gvk.Group != authenticationv1.GroupName {
		return false, nil
	}
	raw, err := readBody(q)
	if err != nil {
		return true, err
	}
	obj, err := s.decodeBody(q, raw, q.res.gvk, s.newObject(q.res), options{validation: "Warn"})
	if err != nil {
		return true, err
	}
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	switch o := obj.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		o.Status, err = s.review(q.user, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes)
	case *authorizationv1.SubjectAccessReview:
		who := user{name: o.Spec.User, groups: o.Spec.Groups}
		o.Status, err = s.review(who, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes)
	case *authorizationv1.SelfSubjectRulesReview:
		o.Status = authorizationv1.SubjectRulesReviewStatus{ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
		if slices.Contains(q.user.groups, groupMasters) {
			everything := []string{"*"}
			o.Status.ResourceRules = []authorizationv1.ResourceRule{{Verbs: everything, APIGroups: everything, Resources: everything}}
		}
	case *authenticationv1.SelfSubjectReview:
		o.Status.UserInfo = authenticationv1.UserInfo{Username: q.user.name, UID: q.user.uid, Groups: q.user.groups}
	default:
		err = errors.New("no such review")
	}
	if err != nil {
		return true, err
	}
	obj.GetObjectKind().SetGroupVersionKind(q.res.gvk)
	return true, s.writeObject(q, http.StatusCreated, obj)
}

func (s *Server) review(who user, ask *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	if ask == nil && other == nil {
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewBadRequest("spec: exactly one of resourceAttributes and nonResourceAttributes must be given")
	}
	if ask == nil {
		return authorizationv1.SubjectAccessReviewStatus{Allowed: slices.Contains(who.groups, groupMasters)}, nil
	}
	allowed, err := s.allowed(who, *ask)
	return authorizationv1.SubjectAccessReviewStatus{Allowed: allowed}, err
}
